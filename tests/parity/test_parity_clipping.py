"""Ways to clip single gradients follow a second loop in float64, one example at a time.

On the network of tests/support/nets.py. Noise is drawn again from an equal generator.
"""

import numpy as np
import pytest
import torch

from harness.seeds import derive
from tests.parity.test_parity import Row
from tests.parity.test_parity_clients import RATE, SGD, private_task, sgd_step, zeros
from tests.parity.test_parity_labels import data
from tests.support import nets
from tests.support.nets import BATCH, EXAMPLES, STEPS, gradients, rate

CALLS = 50


def layer_of(name):
    return name.rpartition(".")[0]


def clipped(grads, clip, names):
    """Return these entries of one example's gradient, scaled to at most `clip`, and their norm."""
    norm = np.sqrt(sum((grads[n] ** 2).sum() for n in names))
    return {n: grads[n] * min(1.0, clip / (norm + 1e-6)) for n in names}, norm


def noisy(clipping, density, clip, noise, **hp):
    """SGD with noise on the sum of clipped gradients (arXiv 1905.03871, 1710.06963)."""
    weights, buffers, generator, x, y = nets.start(), zeros(), nets.draws(), *data()
    stream, clips = nets.task(), [clip]
    trains = {n: np.ones(w.shape, dtype=bool) for n, w in weights.items()}
    if density < 1:
        for n, w in weights.items():
            trains[n] = torch.rand(w.shape, generator=generator).numpy() < np.float32(density)
    groups = [list(weights)]
    if clipping == "layers":
        names = dict.fromkeys(layer_of(n) for n in weights)
        groups = [[n for n in weights if layer_of(n) == layer] for layer in names]
        assert len(groups) == 5
    z, counting = noise, 0.0
    if clipping == "adaptive":
        counting = max(BATCH / 20, noise)
        z = 1 / np.sqrt(1 / noise**2 - 1 / (2 * counting) ** 2)
    for t in range(STEPS):
        total, below = zeros(), 0
        for i in stream.next_index().numpy():
            alone = {
                n: g * trains[n] for n, g in gradients(weights, x[i : i + 1], y[i : i + 1]).items()
            }
            for names in groups:
                part, norm = clipped(alone, clips[-1] / np.sqrt(len(groups)), names)
                total |= {n: total[n] + part[n] for n in names}
            below += norm <= clips[-1]
        for n, w in weights.items():
            drawn = torch.randn(w.shape, generator=generator).double().numpy()
            total[n] = (total[n] + clips[-1] * z * drawn) / BATCH * trains[n]
        if clipping == "adaptive":
            below += counting * float(torch.randn((), generator=generator))
            clips.append(clips[-1] * np.exp(-0.2 * (below / BATCH - 0.5)))
        old = {n: w.copy() for n, w in weights.items()}
        sgd_step(
            weights, buffers, total, hp["lr"] * rate(t), hp["wd"], hp["momentum"], hp["nesterov"]
        )
        for n in weights:
            weights[n] = np.where(trains[n], weights[n], old[n])
    assert clipping != "adaptive" or np.ptp(clips) > 0.1
    return weights


CLIPPING = [
    Row("adaptive_dp_sgd", noisy,
        {**SGD, "clip": 2.0, "noise": 0.1, "clipping": "adaptive", "density": 1.0}, package=""),
    Row("adaptive_dp_sgd", noisy,
        {**SGD, "clip": 2.0, "noise": 1.0, "clipping": "adaptive", "density": 0.5}, package="",
        label="loud"),
    Row("adaptive_dp_sgd", noisy,
        {**SGD, "clip": 1.0, "noise": 0.1, "clipping": "layers", "density": 1.0}, package="",
        label="layer_dp_sgd"),
    Row("adaptive_dp_sgd", noisy,
        {**SGD, "clip": 1.0, "noise": 0.1, "clipping": "whole", "density": 0.1}, package="",
        label="sparse_dp_sgd"),
]  # fmt: skip


@pytest.mark.parametrize("row", CLIPPING, ids=str)
def test_clipping_equals_its_second_loop(row):
    submission = nets.submitted(row.submission, **row.hp)
    assert nets.difference(nets.run(submission), row.second(**row.hp)) <= 1e-9


@pytest.mark.parametrize("count, noise", [(200, 1.0), (8, 1.0), (100, 0.1)])
def test_adaptive_dp_sgd_pays_for_its_count(count, noise):
    """Gradient (norm at most C) and count (1/2 to either side) are one Gaussian mechanism."""
    from submissions.distributed.adaptive_dp_sgd import multipliers

    z, counting = multipliers(noise, count)
    spends = 1 / z**2 + 0.25 / counting**2
    assert spends == pytest.approx(1 / noise**2)
    assert z > noise
    assert multipliers(0.0, count) == (0.0, 0.0)


def test_private_layers_equals_its_second_loop():
    """Each call has one layer's gradients, a sample and noise of its own (arXiv 1710.06963)."""
    hp = {**SGD, "clip": 0.5}
    submission = nets.submitted("private_layers", private_task(), **hp, epsilon=5.0)
    noise, (x, y) = submission.algorithm.noise, data()
    weights, buffers = nets.start(), zeros()
    names = list(dict.fromkeys(layer_of(n) for n in weights))
    for t in range(CALLS):
        layer = [n for n in weights if layer_of(n) == names[t % len(names)]]
        chance = torch.rand(
            EXAMPLES, generator=torch.Generator().manual_seed(derive(0, "private sample", t))
        ).numpy()
        generator = torch.Generator().manual_seed(derive(0, "private noise", t))
        total = {n: np.zeros_like(weights[n]) for n in layer}
        for i in np.flatnonzero(chance < np.float32(RATE)):
            part, _ = clipped(gradients(weights, x[i : i + 1], y[i : i + 1]), hp["clip"], layer)
            total = {n: total[n] + part[n] for n in layer}
        for n in layer:
            drawn = torch.randn(weights[n].shape, generator=generator, dtype=torch.float64).numpy()
            g = (total[n] + hp["clip"] * noise * drawn) / (RATE * EXAMPLES) + hp["wd"] * weights[n]
            buffers[n] = hp["momentum"] * buffers[n] + g
            weights[n] = weights[n] - hp["lr"] * rate(t, CALLS) * (g + hp["momentum"] * buffers[n])
    assert nets.difference(nets.run(submission, CALLS), weights) <= 1e-9
    assert submission.task.ledger.report() == {"exposed": False, "spent": {repr(noise): CALLS}}
    assert all(p.requires_grad for p in submission.task.model.parameters())
