"""Methods for recurrences follow a second loop in float64, with the gradients by hand.

The model is the filter of the memory workload, on a few short sequences:

    K_s = 2·Re Σ gain_k·exp(s·step·λ_k);  y_t = Σ_s K_s·x_{t−s} + skip·x_t;  mean squared error
"""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.optimize import brentq

from harness import surgery
from harness.train.task import Task
from tests.parity.test_parity import Row
from tests.support import nets
from tests.support.nets import Adam, rate
from tests.support.transformer import submitted
from workloads import state_memory
from workloads.models.filter import Filter

STEPS, LENGTH, STATES, STEP, SEQUENCES = 30, 12, 8, 0.2, 24


def task():
    """Return the same task each time; no rate, frequency or gain is like another."""
    torch.manual_seed(0)
    model = Filter(SimpleNamespace(states=STATES, step=STEP)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x = torch.randn(SEQUENCES, LENGTH, dtype=torch.float64)
    kernel = (1 + torch.arange(LENGTH, dtype=torch.float64)) ** -1.1
    y = torch.stack([(kernel[: t + 1].flip(0) * x[:, : t + 1]).sum(1) for t in range(LENGTH)], 1)
    data = {"inputs": x, "targets": y}
    return Task(state_memory, SimpleNamespace(batch=6), data, model, 0, STEPS)


def start():
    return {n: p.detach().numpy().copy() for n, p in task().model.named_parameters()}


def batches():
    stream = task()
    for t in range(STEPS):
        batch = stream.next_batch()
        stream.step += 1
        yield t, batch["inputs"].numpy(), batch["targets"].numpy()


def gradients(w, x, y):
    """Return the gradient for every parameter: the chain rule through K."""
    times = STEP * np.arange(LENGTH)
    powers = np.exp(np.outer(w["rate"] + 1j * w["frequency"], times))
    gain = w["gain"][0] + 1j * w["gain"][1]
    kernel = 2 * (gain @ powers).real
    late = np.stack([np.pad(x, ((0, 0), (s, 0)))[:, :LENGTH] for s in range(LENGTH)])
    d = 2 * (np.tensordot(kernel, late, 1) + w["skip"] * x - y) / x.size
    slope = (late * d).sum((1, 2))  # ∂L/∂K
    by_exponent, by_gain = 2 * gain * (powers @ (times * slope)), 2 * powers @ slope
    return {
        "rate": by_exponent.real,
        "frequency": -by_exponent.imag,
        "gain": np.stack([by_gain.real, -by_gain.imag]),
        "skip": (d * x).sum(),
    }


# f, f' and where f's inverse is looked for, by the kind of rate.
RATES = {
    "best": (lambda w: 1 / (w**2 + 0.1), lambda w: -2 * w / (w**2 + 0.1) ** 2, (0, 40)),
    "exp": (np.exp, np.exp, (-20, 20)),
    "softplus": (lambda w: np.log(1 + np.exp(w)), lambda w: 1 / (1 + np.exp(-w)), (-20, 20)),
    "direct": (lambda w: w, lambda w: 1.0, (-20, 20)),
}


def stable(kind):
    """AdamW without decay on w, where the rate is −f(w) (arXiv 2311.14495)."""
    f, slope, (low, high) = RATES[kind]

    def loop(base_lr, **_):
        weights, optimizer = start(), Adam()
        found = [brentq(lambda w, r=r: f(w) + r, low, high, xtol=1e-15) for r in weights["rate"]]
        weights["w"] = np.array(found)
        for t, x, y in batches():
            g = gradients(weights | {"rate": -f(weights["w"])}, x, y)
            g["w"] = -slope(weights["w"]) * g.pop("rate")
            optimizer.step(weights, g, base_lr * rate(t, STEPS))
        w = weights.pop("w")
        return weights | {"rate": -f(w)}

    return loop


def s4_ptd(base_lr, base_eps, size):
    """The perturbed HiPPO system by left and right eigenvectors, then AdamW (arXiv 2310.01698).

    A real state has slopes of exactly zero along frequency and imaginary gain. Rounding moves it
    off this saddle, and an eps near zero would enlarge that rounding to a step.
    """
    weights, optimizer, n = start(), Adam(eps=base_eps), STATES
    a = np.zeros((n, n))
    for i in range(n):
        a[i, i] = -(i + 1)
        for k in range(i):
            a[i, k] = -np.sqrt((2 * i + 1) * (2 * k + 1))
    b = np.array([np.sqrt(2 * i + 1) for i in range(n)])
    e = torch.randn(n, n, generator=nets.draws(), dtype=torch.float64).numpy()
    e = e * (size * scipy.linalg.svdvals(a)[0] / scipy.linalg.svdvals(e)[0])
    values, left, right = scipy.linalg.eig(a + e, left=True, right=True)
    c, place = weights["gain"][0], 0
    gain = np.zeros((2, n))
    for k in range(n):
        if values[k].imag < 0:
            continue
        u, v = left[:, k].conj(), right[:, k]
        own = (c @ v) * (u @ b) / (u @ v)
        if values[k].imag == 0:
            own = own / 2  # the model adds the conjugate, which here is the same state
        gain[:, place] = own.real, own.imag
        weights["rate"][place], weights["frequency"][place] = values[k].real, values[k].imag
        place += 1
    assert n / 2 < place < n, "real states, and pairs"
    weights["gain"], begun = gain, weights["rate"].copy()
    for t, x, y in batches():
        optimizer.step(weights, gradients(weights, x, y), base_lr * rate(t, STEPS))
    assert np.abs(weights["rate"] - begun).max() > 0.01
    return weights


ROWS = [
    Row("stable_ssm", stable("best"), {"base_lr": 0.05, "kind": "best"}, package=""),
    Row("stable_ssm", stable("direct"), {"base_lr": 0.05, "kind": "direct"}, package="",
        label="direct"),
    Row("ssm_exp", stable("exp"), {"base_lr": 0.05}, package=""),
    Row("ssm_softplus", stable("softplus"), {"base_lr": 0.05}, package=""),
    Row("s4_ptd", s4_ptd, {"base_lr": 0.05, "base_eps": 1.0, "size": 0.05}, package="",
        float64=1e-8),
]  # fmt: skip


def ordered(weights):
    """Return the weights with the states in order of their exponents."""
    order = np.argsort(weights["rate"] + 1j * weights["frequency"])
    return {n: w[..., order] if w.ndim else w for n, w in weights.items()}


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_recurrent_method_equals_its_second_loop(row):
    submission = submitted(row.submission, task(), **row.hp)
    nets.run(submission, STEPS)
    model = submission.task.model
    export = getattr(submission.module, "export", surgery.export)
    found = {n: t.numpy().copy() for n, t in export(model).items()}
    second, first = row.second(**row.hp), start()
    assert nets.difference(ordered(found), ordered(second)) <= max(row.float64, 1e-9)
    assert all(np.abs(second[n] - first[n]).max() > 0.05 for n in first), "all of it was trained"


def test_gradients_of_the_filter_are_those_of_the_workload():
    made = task()
    batch = made.next_batch()
    made.forward_backward(batch)
    ours = gradients(start(), *(batch[n].numpy() for n in ("inputs", "targets")))
    theirs = {n: p.grad.numpy() for n, p in made.model.named_parameters()}
    assert nets.difference(ours, theirs) <= 1e-12
