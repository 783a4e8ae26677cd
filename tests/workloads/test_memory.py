"""The memory workload and the two methods for it: exact kernels, and stable rates."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from harness import surgery
from harness.catalog.definition import define, load_workload, tree_of
from harness.errors import UserError
from submissions.recurrent import s4_ptd, stable_ssm
from tests.support import nets
from workloads.models.filter import Filter

KINDS = ("best", "exp", "softplus", "direct")


def made(**changes):
    definition = define("state_memory", tree_of("state_memory"), "mini", None)
    definition.block["data"] |= {"length": 12, "train": 6, "validation": 4} | changes
    return load_workload(definition), definition.config


@pytest.mark.parametrize("kind", ["polynomial", "exponential"])
def test_targets_are_the_sum_over_the_past(kind):
    module, config = made(kind=kind)
    data = module.data(config, "train", 0)
    x, y = data["inputs"].double().numpy(), data["targets"].numpy()
    rho = [(s + 1) ** -1.1 if kind == "polynomial" else math.exp(-s / 10) for s in range(12)]
    for t in range(12):
        expected = sum(rho[s] * x[:, t - s] for s in range(t + 1))
        np.testing.assert_allclose(y[:, t], expected, atol=1e-5)


def test_the_filter_is_its_recurrence():
    torch.manual_seed(0)
    model, x = Filter(SimpleNamespace(states=3, step=0.2)).double(), torch.randn(2, 9).double()
    torch.nn.init.constant_(model.skip, 0.7)
    powers = torch.exp(0.2 * torch.complex(model.rate, model.frequency))
    gain, h, rows = torch.complex(*model.gain), torch.zeros(2, 3, dtype=torch.cdouble), []
    for t in range(9):
        h = powers * h + x[:, t, None]
        rows.append(2 * (h @ gain).real + 0.7 * x[:, t])
    torch.testing.assert_close(model(x), torch.stack(rows, dim=1))


def test_one_state_holds_the_exponential_memory_exactly():
    module, config = made(kind="exponential")
    model, data = module.model(config), module.data(config, "val", 0)
    with torch.no_grad():
        model.frequency.zero_()
        model.rate.fill_(-1 / 10 / config.model.step)
        model.gain.zero_()
        model.gain[0, 0] = 0.5
        sums = module.metric(model, module.batch(data, torch.arange(4), config))
    assert module.score({k: float(v) for k, v in sums.items()})["relative_error"] < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_a_rate_begins_where_it_was_and_its_slope_is_known(kind):
    rule, rate = stable_ssm.Rate(kind), torch.tensor([-0.5, -0.1, -1.5], dtype=torch.float64)
    w = rule.right_inverse(rate).requires_grad_()
    torch.testing.assert_close(rule(w), rate)
    (slope,) = torch.autograd.grad(rule(w).sum(), w)
    f = -rate
    expected = {
        "best": 2 * w * f**2,
        "exp": -f,
        "softplus": -(1 - torch.exp(-f)),
        "direct": -torch.ones(3, dtype=torch.float64),
    }[kind]
    torch.testing.assert_close(slope, expected.detach())


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_parametrised_rate_stays_stable(kind):
    w = torch.linspace(-30, 30, 101, dtype=torch.float64)
    assert bool((stable_ssm.Rate(kind)(w) < 0).all())


def test_what_is_handed_over_are_the_rates():
    module, config = made()
    model = module.model(config)
    before, x = {n: t.clone() for n, t in model.state_dict().items()}, torch.randn(2, 12)
    outputs = model(x)
    stable_ssm.adapt(model, None, SimpleNamespace(kind="best"))
    torch.testing.assert_close(model(x), outputs)
    found = stable_ssm.export(model)
    assert found.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(found[name], value)


def test_the_diagonal_form_is_the_matrix_exponential():
    a, b = s4_ptd.hippo(4)
    assert a[2, 1] == pytest.approx(-math.sqrt(15))
    assert (np.diag(a) == [-1, -2, -3, -4]).all()
    c = np.array([0.3, -1.0, 0.5, 2.0])
    a = a + 0.3 * np.random.default_rng(0).standard_normal((4, 4))  # some pairs are complex
    values, gains = s4_ptd.diagonal(a, b, c)
    kept = s4_ptd.halved(values, gains)
    assert len(kept[0]) < 4
    for t in (0.0, 0.3, 1.1):
        expected = c @ expm(t * a) @ b
        assert (gains * np.exp(t * values)).sum().real == pytest.approx(expected)
        assert 2 * (kept[1] * np.exp(t * kept[0])).sum().real == pytest.approx(expected)


def test_a_perturbation_makes_the_matrix_diagonalisable():
    a, _ = s4_ptd.hippo(16)
    e = np.random.default_rng(0).standard_normal((16, 16))
    e *= 0.05 * np.linalg.norm(a, 2) / np.linalg.norm(e, 2)
    conditions = [np.linalg.cond(np.linalg.eig(m)[1]) for m in (a, a + e)]
    assert conditions[0] > 1e6
    assert conditions[1] < 1e4


def test_s4_ptd_writes_the_perturbed_system_into_the_model():
    module, config = made()
    torch.manual_seed(0)
    model = module.model(config).double()
    task = SimpleNamespace(rng=torch.Generator().manual_seed(1))
    c = model.gain[0].detach().numpy().copy()
    s4_ptd.adapt(model, task, SimpleNamespace(size=0.05))
    a, b = s4_ptd.hippo(16)
    draws = torch.Generator().manual_seed(1)
    e = torch.randn(16, 16, generator=draws, dtype=torch.float64).numpy()
    a = a + e * 0.05 * np.linalg.norm(a, 2) / np.linalg.norm(e, 2)
    found = model.kernel(12).detach().numpy()
    expected = [c @ expm(t * config.model.step * a) @ b for t in range(12)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_a_model_without_a_recurrence_is_an_error():
    with pytest.raises(UserError, match="recurrence"):
        surgery.recurrences(nets.task().model)
