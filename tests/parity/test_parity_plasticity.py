"""Methods that keep a network plastic follow a second implementation, as in test_parity_continual.

New weights come from the same random numbers: torch's own generator for what torch initialises, the
submission's for the rest.
"""

import numpy as np
import pytest
import torch

from harness.laws import small_workloads
from tests.parity.test_parity import Row
from tests.parity.test_parity_continual import LENGTH, SGD, TASKS, Momentum, steps
from tests.support import nets
from tests.support.nets import HEAD, WIDTHS, forward, gradients

PLAIN = {**SGD, "adaptive": False}
LAYERS = ["blocks.0.linear", "blocks.1.linear"]
# each hidden layer, and the one that reads it
STACK = [(LAYERS[0], LAYERS[1]), (LAYERS[1], "readout")]


def uniform(shape, inputs):
    """Draw as torch's linear layers are initialised, from torch's own generator."""
    bound = inputs**-0.5
    return torch.empty(shape, dtype=torch.float64).uniform_(-bound, bound).numpy()


def fresh(weights):
    """Return new initial weights of the whole network."""
    new = {}
    for i, (inputs, outputs) in enumerate(WIDTHS):
        new[f"blocks.{i}.linear.weight"] = uniform((outputs, inputs), inputs)
        new[f"blocks.{i}.linear.bias"] = uniform(outputs, inputs)
        new[f"blocks.{i}.norm.weight"], new[f"blocks.{i}.norm.bias"] = 1.0, 0.0
    new[HEAD[0]] = uniform(weights[HEAD[0]].shape, WIDTHS[-1][1])
    new[HEAD[1]] = uniform(weights[HEAD[1]].shape, WIDTHS[-1][1])
    return {n: new[n] + np.zeros_like(w) for n, w in weights.items()}


def seeded():
    """The steps; torch's own generator begins as the submission finds it."""
    for t, batch in steps():
        if t == 0:
            torch.manual_seed(1)
        yield t, batch


def l2_init(lr, momentum, adaptive, lam):
    weights, optimizer = nets.start(), Momentum(lr, momentum)
    start = dict(weights)
    for _, batch in steps():
        g = gradients(weights, *batch)
        optimizer.step(weights, {n: g[n] + lam * (weights[n] - start[n]) for n in g})
    return weights


def shrink_perturb(
    lr, momentum, adaptive, shrink, scale, when, boundary_shrink=0.0, boundary_scale=0.0
):
    weights, optimizer = nets.start(), Momentum(lr, momentum)
    for t, batch in seeded():
        optimizer.step(weights, gradients(weights, *batch))
        if when == "step" or (t and t % LENGTH == 0):
            new = fresh(weights)
            s, e = (shrink, scale) if when == "step" else (boundary_shrink, boundary_scale)
            weights = {n: (1 - s) * w + e * new[n] for n, w in weights.items()}
    return weights


def restart(lr, momentum, adaptive):
    weights, optimizer = nets.start(), Momentum(lr, momentum)
    for t, batch in seeded():
        if t and t % LENGTH == 0:
            weights, optimizer = fresh(weights), Momentum(lr, momentum)
        optimizer.step(weights, gradients(weights, *batch))
    return weights


def redo(lr, momentum, adaptive, tau, period):
    """Units whose mean size is at most tau times their layer's are recycled (2302.12902)."""
    weights, optimizer, recycled = nets.start(), Momentum(lr, momentum), 0
    for t, (x, y) in seeded():
        if t and t % period == 0:
            kept = forward(weights, x)[1]
            for i, (layer, following) in enumerate(STACK):
                h = np.abs(kept[i + 1][0] if i == 0 else kept[2]).mean(0)
                dead = np.flatnonzero(h / (h.mean() + 1e-9) <= tau)
                recycled += len(dead)
                inputs = weights[f"{layer}.weight"].shape[1]
                new = uniform(weights[f"{layer}.weight"].shape, inputs)
                uniform(len(new), inputs)
                m = optimizer.m
                for v in (weights[f"{layer}.bias"], m[f"{layer}.bias"], m[f"{layer}.weight"]):
                    v[dead] = 0
                weights[f"{layer}.weight"][dead] = new[dead]
                weights[f"{following}.weight"][:, dead] = 0
                m[f"{following}.weight"][:, dead] = 0
        optimizer.step(weights, gradients(weights, x, y))
    assert recycled
    return weights


def continual_backprop(lr, rate, maturity, utility, keep, beta1, beta2, eps):
    """Utilities of units, and Adam with a count of steps for every weight (2306.13812)."""
    weights, generator, replaced = nets.start(), nets.draws(), 0
    m, v, count = ({n: np.zeros_like(w) for n, w in weights.items()} for _ in range(3))
    u, mean, age = ({a: np.zeros(len(weights[f"{a}.bias"])) for a in LAYERS} for _ in range(3))
    due = dict.fromkeys(LAYERS, 0.0)
    for _, (x, y) in steps():
        kept, g = forward(weights, x)[1], gradients(weights, x, y)
        for n in g:
            count[n] += 1
            m[n] = beta1 * m[n] + (1 - beta1) * g[n]
            v[n] = beta2 * v[n] + (1 - beta2) * g[n] ** 2
            root = np.sqrt(v[n] / (1 - beta2 ** count[n])) + eps
            weights[n] = weights[n] - lr * m[n] / (1 - beta1 ** count[n]) / root
        for (a, b), h in zip(STACK, [kept[1][0], kept[2]]):
            w, out = weights[f"{a}.weight"], weights[f"{b}.weight"]
            age[a] += 1
            mean[a] = keep * mean[a] + (1 - keep) * h.mean(0)
            trust = 1 - keep ** age[a]
            size = np.abs(out).mean(0)
            if utility == "contribution":
                value = size * np.abs(h).mean(0)
            else:
                value = size * np.abs(h - mean[a] / trust).mean(0) / np.abs(w).mean(1)
            u[a] = keep * u[a] + (1 - keep) * value
            old = np.flatnonzero(age[a] > maturity)
            due[a] += rate * len(old)
            while due[a] >= 1:
                due[a] -= 1
                i = old[np.argmin((u[a] / trust)[old])]
                old = old[old != i]
                weights[f"{b}.bias"] += out[:, i] * mean[a][i] / trust[i]
                out[:, i] = 0
                drawn = torch.rand((1, w.shape[1]), generator=generator, dtype=torch.float64)
                w[i] = (2 * drawn.numpy()[0] - 1) * np.sqrt(6 / w.shape[1])
                weights[f"{a}.bias"][i] = 0
                for s in (m, v, count):
                    s[f"{a}.weight"][i] = s[f"{a}.bias"][i] = s[f"{b}.weight"][:, i] = 0
                u[a][i] = mean[a][i] = age[a][i] = 0
                replaced += 1
    assert replaced > 2
    return weights


NEW = {"lr": 0.02, "rate": 0.1, "maturity": 3, "keep": 0.9, "beta1": 0.9, "beta2": 0.99,
       "eps": 1e-8}  # fmt: skip
FORMULAS = [
    Row("l2_init", l2_init, {**PLAIN, "lam": 0.3}, package=""),
    Row("shrink_perturb", shrink_perturb, {**PLAIN, "shrink": 0.005, "scale": 0.01, "when": "step"},
        package=""),
    Row("shrink_perturb", shrink_perturb,
        {**PLAIN, "shrink": 0.01, "scale": 0.01, "when": "boundary", "boundary_shrink": 0.6,
         "boundary_scale": 0.03}, package="", label="boundary"),
    Row("restart", restart, PLAIN, package=""),
    Row("redo", redo, {**PLAIN, "tau": 0.7, "period": 4}, package=""),
    Row("continual_backprop", continual_backprop, {**NEW, "utility": "contribution"}, package=""),
    Row("continual_backprop", continual_backprop, {**NEW, "utility": "adaptable"}, package="",
        label="adaptable"),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
def test_plastic_method_equals_its_formula(row):
    submission = nets.submitted(row.submission, nets.task(tasks=TASKS), **row.hp)
    assert nets.difference(nets.run(submission), row.second(**row.hp)) <= row.float64


def test_recycling_a_unit_that_is_off_changes_no_answer():
    task = small_workloads.read("stream_split").task()
    submission = nets.submitted("redo", task)
    layer, following, x = task.model.body[0], task.model.readout, task.next_batch()
    with torch.no_grad():
        layer.weight[4], layer.bias[4] = 0.0, -1.0
        before, first = task.logits(x), layer.weight.clone()
        off = torch.arange(len(first)) == 4
        submission.algorithm.recycle(layer, following, off)
        assert torch.equal(before, task.logits(x))
    assert torch.equal((layer.weight != first).any(1), off)
    assert not following.weight[:, 4].any()
    assert layer.bias[4] == 0
