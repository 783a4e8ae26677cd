"""Operator learning on Burgers' equation, and the noise for it."""

import numpy as np
import pytest
import torch

from harness.catalog.definition import define, tree_of
from harness.errors import UserError
from harness.laws import small_workloads
from tests.support import nets
from workloads import operator_burgers as workload
from workloads.models.fourier import Spectral


def test_states_solve_the_equation_as_cole_and_hopf_say():
    """u = −2ν·φ_x/φ, φ the heat flow of exp(−∫u₀/2ν)."""
    n, nu = 512, 0.05
    x = np.arange(n) / n
    start = np.sin(2 * np.pi * x)[None]
    found = workload.trajectories(start, nu)[0]
    k = 2 * np.pi * np.arange(n // 2 + 1)
    phi = np.fft.rfft(np.exp(-(1 - np.cos(2 * np.pi * x)) / (2 * np.pi) / (2 * nu)))
    for i, t in enumerate(workload.APART * np.arange(11)):
        flow = phi * np.exp(-nu * k**2 * t)
        exact = -2 * nu * np.fft.irfft(1j * k * flow, n) / np.fft.irfft(flow, n)
        assert np.abs(found[i] - exact).max() < 1e-6


def test_initial_states_have_mean_zero_and_largest_value_one():
    u = workload.initial(20, 256, np.random.default_rng(0))
    assert np.abs(u.mean(1)).max() < 1e-12
    assert np.allclose(np.abs(u).max(1), 1)


def test_a_spectral_layer_is_a_convolution():
    torch.manual_seed(0)
    layer, x = Spectral(2, 3), torch.randn(1, 16, 2)
    modes = np.fft.rfft(x.numpy(), axis=1)[0]
    weights = layer.weight[0].detach().numpy() + 1j * layer.weight[1].detach().numpy()
    mixed = np.zeros_like(modes)
    for m in range(3):
        mixed[m] = modes[m] @ weights[m]
    second = np.fft.irfft(mixed, 16, axis=0)
    assert np.abs(layer(x).detach().numpy()[0] - second).max() < 1e-5


def small():
    config = define("operator_burgers", tree_of("operator_burgers"), "mini", None).config
    config.data.train = config.data.validation = 2
    return config


def test_a_batch_is_pairs_and_the_metric_is_ten_steps_from_the_start():
    config = small()
    data = workload.data(config, "val")
    assert data["states"].shape == (2, 11, 128)
    batch = workload.batch(data, torch.tensor([0, 13]), config)
    assert torch.equal(batch["inputs"][1], data["states"][1, 3])
    assert torch.equal(batch["targets"][1], data["states"][1, 4])
    every = workload.batch(data, torch.arange(20), config)
    exact = {k: float(v) for k, v in workload.metric(lambda u: 0.5 * u, every).items()}
    far = (data["states"][:, 0] / 2**10 - data["states"][:, -1]).norm(dim=1)
    far = (far / data["states"][:, -1].norm(dim=1)).mean()
    assert exact["trajectories"] == 2
    assert workload.score(exact)["relative_error"] == pytest.approx(float(far), rel=1e-5)


def test_noisy_inputs_equals_its_formula():
    """Noise 0 is AdamW; otherwise the noise has the size of each input's root mean square."""
    seen = []
    submission = nets.submitted("noisy_inputs", nets.task(), noise=0.5)
    task, original = submission.task, submission.task.forward_backward
    task.forward_backward = lambda batch: seen.append(batch["inputs"]) or original(batch)
    clean = nets.task().next_batch()["inputs"]
    submission.step()
    noise = torch.randn(clean.shape, generator=nets.draws()).double()
    size = np.sqrt((clean.numpy() ** 2).mean(1, keepdims=True))
    assert np.abs(seen[0].numpy() - (clean.numpy() + 0.5 * size * noise.numpy())).max() < 1e-12
    plain, none = (
        nets.run(nets.submitted(name, **hp), 5)
        for name, hp in (("adamw", {}), ("noisy_inputs", {"noise": 0.0}))
    )
    assert nets.difference(plain, none) == 0


def test_tokens_have_no_noise():
    task = small_workloads.read("gpt2").task()
    submission = nets.submitted("noisy_inputs", task)
    with pytest.raises(UserError, match="real numbers"):
        submission.step()
