"""Accelerated, surrogate and proxy methods follow a second implementation of their rule.

FORMULAS run on the gradients of test_parity, OWNERS on the network of tests/support/nets.py. Both
are float64 loops in numpy, written from the papers' rules. What is drawn at random is drawn again.
"""

import math

import numpy as np
import pytest
import torch

from tests.parity.test_parity import STEPS, TIGHT, Row, error, norm
from tests.parity.test_parity_listings import evaluated, second
from tests.parity.test_parity_owners import data, order
from tests.support import nets
from tests.support.nets import BATCH, CLASSES, EXAMPLES, Adam, backward, forward, rate, softmax

ADAMW = {"lr": 0.02, "wd": 0.1, "beta2": 0.95}


# Formulas change the list `params` in place and return what is evaluated; steps count from 0.


def clipped_sstm(params, grads, lr, clip, restart):
    """Algorithm 1 of arXiv 2005.10785, begun again at y after `restart` steps."""
    y, clipped = [p.copy() for p in params], 0
    for t in range(STEPS):
        if t % restart == 0:
            z, total = [p.copy() for p in y], 0.0
        alpha = (t % restart + 2) * lr / 2
        x = [(total * a + alpha * b) / (total + alpha) for a, b in zip(y, z)]
        g = grads(t, x)
        level = clip / alpha
        clipped += norm(g) > level
        z = [b - alpha * min(1.0, level / norm(g)) * c for b, c in zip(z, g)]
        y = [(total * a + alpha * b) / (total + alpha) for a, b in zip(y, z)]
        total += alpha
    assert 0 < clipped < STEPS, "the level separates no steps"
    return y


def interpolation_agd(params, grads, lr, q):
    """Equation 6 of arXiv 2404.02378, with a as the root of a² + (a₋² − q)·a − a₋² = 0."""
    w, y, a = [p.copy() for p in params], [p.copy() for p in params], 1.0
    for t in range(STEPS):
        g = grads(t, y)
        new = [b - lr * c for b, c in zip(y, g)]
        after = max(np.roots([1.0, a * a - q, -a * a]).real)
        y = [b + a * (1 - a) / (a * a + after) * (b - c) for b, c in zip(new, w)]
        w, a = new, after
    return w


FORMULAS = [
    Row("clipped_sstm", clipped_sstm, {"lr": 0.01, "clip": 0.4, "restart": 12}, package=""),
    Row("interpolation_agd", interpolation_agd, {"lr": 0.05, "q": 0.0}, package=""),
    Row("interpolation_agd", interpolation_agd, {"lr": 0.05, "q": 0.04}, package="", label="q"),
]


@pytest.mark.parametrize("row", FORMULAS, ids=str)
def test_evaluated_point_equals_its_formula(row):
    mine, _ = evaluated(row.submission, row.hp)
    _, theirs = second(row.second, row.hp)
    assert error(mine, [torch.from_numpy(p) for p in theirs]) <= TIGHT


def test_interpolation_agd_ends_at_the_constant_momentum_of_strong_convexity():
    q, a = 0.04, 1.0
    for _ in range(200):
        gap = a * a - q
        after = (math.sqrt(gap * gap + 4 * a * a) - gap) / 2
        a, momentum = after, a * (1 - a) / (a * a + after)
    assert momentum == pytest.approx((1 - math.sqrt(q)) / (1 + math.sqrt(q)))


# Owners return the weights that they end with.


def slopes(weights, x, y):
    """The gradient of each example's cross-entropy with respect to its logits, and the pass."""
    scores, kept = forward(weights, x)
    return softmax(scores) - np.eye(CLASSES)[y], scores, kept


def moved(weights, way, length):
    return {n: w + length * way[n] for n, w in weights.items()}


def normalised_lrgd(lr):
    """θ ← θ − γ·β·∇f with β = 1/mean(1 − p_y) (arXiv 2412.08424)."""
    weights, stream = nets.start(), nets.batches()
    for _ in range(nets.STEPS):
        x, y = next(stream)
        chance = softmax(forward(weights, x)[0])[np.arange(len(y)), y]
        weights = moved(weights, nets.gradients(weights, x, y), -lr / (1 - chance).mean())
    return weights


def large_batch(rule, lr, momentum, wd):
    """SGD on 4B examples: lr·√4, or weights N(1, 3) on the losses (arXiv 1705.08741)."""
    weights, numbers, generator = nets.start(), order(), nets.draws()
    (x, y), b = data(), {n: 0.0 for n in nets.start()}  # noqa: C420 - no shared arrays
    for t in range(nets.STEPS):
        now = [next(numbers) for _ in range(4 * BATCH)]
        d, _, kept = slopes(weights, x[now], y[now])
        z, scale = np.ones(4 * BATCH), 2.0
        if rule == "noise":
            drawn = torch.randn(4 * BATCH, generator=generator)
            z, scale = (drawn * 3**0.5 + 1).double().numpy(), 1.0
        g = backward(weights, kept, d * z[:, None] / (4 * BATCH))
        for n in weights:
            b[n] = momentum * b[n] + g[n] + wd * weights[n]
            weights[n] = weights[n] - lr * scale * rate(t) * b[n]
    return weights


def proxyprox(lr, eta):
    """Gradient steps on h + <d, x> + ‖x − p‖²/(2η) (arXiv 2302.03542)."""
    weights, stream, (x, y) = nets.start(), nets.batches(), data()
    few = torch.randperm(EXAMPLES, generator=nets.draws())[: BATCH // 4].numpy()
    for t in range(nets.STEPS):
        true = nets.gradients(weights, *next(stream))
        near = nets.gradients(weights, x[few], y[few])
        p = dict(weights)
        for _ in range(4):
            g = nets.gradients(weights, x[few], y[few])
            for n in weights:
                slope = g[n] + true[n] - near[n] + (weights[n] - p[n]) / eta
                weights[n] = weights[n] - lr * rate(t) * slope
    return weights


def target_surrogate(eta, tau):
    """Trial steps on the quadratic surrogate in the space of logits (arXiv 2302.02607)."""
    weights, stream, refused = nets.start(), nets.batches(), 0
    for _ in range(nets.STEPS):
        x, y = next(stream)
        d, first, _ = slopes(weights, x, y)

        def value(z, d=d, first=first):
            return (d * z + (z - first) ** 2 / (2 * eta)).sum() / len(z)

        for _ in range(4):
            z, kept = forward(weights, x)
            g = backward(weights, kept, (d + (z - first) / eta) / len(z))
            there = moved(weights, g, -tau)
            square = sum((v**2).sum() for v in g.values())
            if value(forward(there, x)[0]) <= value(z) - tau * square / 2:
                weights, tau = there, 1.8 * tau
            else:
                tau, refused = 0.9 * tau, refused + 1
    assert refused
    return weights


def pulled(past, now, temperature):
    """∂/∂now of T²·KL(softmax(past/T) ‖ softmax(now/T)), which is T·(q − p)."""
    return temperature * (softmax(now / temperature) - softmax(past / temperature))


def saf(strength, lag, **hp):
    """Equation 7 of arXiv 2205.14083, with the logits of `lag` visits ago."""
    (x, y), numbers, weights, optimizer = data(), order(), nets.start(), Adam(beta2=hp["beta2"])
    seen, penalised = [[] for _ in range(EXAMPLES)], 0
    for t in range(nets.STEPS):
        now = [next(numbers) for _ in range(BATCH)]
        d, z, kept = slopes(weights, x[now], y[now])
        for row, i in enumerate(now):
            if (t + 0.5) / nets.STEPS >= 0.3 and len(seen[i]) >= lag:
                d[row] += strength * pulled(seen[i][-lag][None], z[row][None], 5.0)[0]
                penalised += 1
            seen[i].append(z[row])
        optimizer.step(weights, backward(weights, kept, d / BATCH), hp["lr"] * rate(t), hp["wd"])
    assert penalised
    return weights


def mesa(strength, span, **hp):
    """Section 3.3 of arXiv 2205.14083, with the logits of averaged weights."""
    weights, stream, optimizer = nets.start(), nets.batches(), Adam(beta2=hp["beta2"])
    average = nets.start()
    for t in range(nets.STEPS):
        x, y = next(stream)
        d, z, kept = slopes(weights, x, y)
        if (t + 0.5) / nets.STEPS >= 0.3:
            d = d + strength * pulled(forward(average, x)[0], z, 5.0)
        optimizer.step(weights, backward(weights, kept, d / BATCH), hp["lr"] * rate(t), hp["wd"])
        fresh = 1 / (span * nets.STEPS)
        average = {n: a + fresh * (weights[n] - a) for n, a in average.items()}
    return weights


def optex(history, length, **hp):
    """Predicted steps between true gradients, by the GP's posterior mean (arXiv 2402.11427)."""
    weights, stream, optimizer = nets.start(), nets.batches(), Adam(beta2=hp["beta2"])
    points, gradients, predicted = [], [], 0

    def flat(values):
        return np.concatenate([values[n].ravel() for n in weights])

    def named(vector):
        parts = np.split(vector, np.cumsum([w.size for w in weights.values()])[:-1])
        return {n: p.reshape(w.shape) for p, (n, w) in zip(parts, weights.items())}

    def kernel(a, b, scale):
        r = np.sqrt(5) * np.array([[np.linalg.norm(u - v) for v in b] for u in a]) / scale
        return (1 + r + r**2 / 3) * np.exp(-r)

    for t in range(nets.STEPS):
        known, slopes = points[-history:], gradients[-history:]
        for j in range(4):
            g = nets.gradients(weights, *next(stream))
            points, gradients = [*points, flat(weights)], [*gradients, flat(g)]
            if j < 3:
                g = {n: np.zeros_like(w) for n, w in weights.items()}
                if len(known) >= 2:
                    apart = [np.linalg.norm(a - b) for a in known for b in known if a is not b]
                    scale = length * np.mean(apart)
                    gram = kernel(known, known, scale) + 1e-3 * np.eye(len(known))
                    near = kernel([points[-1]], known, scale)
                    g, predicted = named((near @ np.linalg.inv(gram) @ slopes)[0]), predicted + 1
            optimizer.step(weights, g, hp["lr"] * rate(t), hp["wd"])
    assert predicted
    return weights


OWNERS = [
    Row("normalised_lrgd", normalised_lrgd, {"lr": 0.5}, package=""),
    Row("large_batch", large_batch,
        {"rule": "sqrt", "lr": 0.1, "momentum": 0.9, "wd": 0.01}, package=""),
    Row("large_batch", large_batch,
        {"rule": "noise", "lr": 0.1, "momentum": 0.9, "wd": 0.01}, package="", label="noise"),
    Row("proxyprox", proxyprox, {"lr": 0.1, "eta": 0.5}, package=""),
    Row("target_surrogate", target_surrogate, {"eta": 2.0, "tau": 1.0}, package=""),
    Row("saf", saf, {**ADAMW, "strength": 0.8, "lag": 2}, package=""),
    Row("mesa", mesa, {**ADAMW, "strength": 0.8, "span": 0.2}, package=""),
    Row("optex", optex, {**ADAMW, "history": 8, "length": 2.0}, package="", float64=1e-8),
]  # fmt: skip


@pytest.mark.parametrize("row", OWNERS, ids=str)
def test_owner_equals_its_second_loop(row):
    extra = {"nesterov": False} if row.submission == "large_batch" else {}
    submission = nets.submitted(row.submission, nets.task(), **row.hp, **extra)
    assert nets.difference(nets.run(submission), row.second(**row.hp)) <= row.float64


@pytest.mark.parametrize("name, changes", [("saf", {"strength": 0.0}), ("mesa", {"strength": 0.0})])
def test_without_its_penalty_the_method_is_adamw(name, changes):
    mine = nets.run(nets.submitted(name, nets.task(), **ADAMW, **changes))
    assert nets.difference(mine, nets.run(nets.submitted("adamw", nets.task(), **ADAMW))) <= 1e-13


def test_the_first_inner_step_of_the_surrogate_has_the_direction_of_sgd():
    weights, (x, y) = nets.start(), next(nets.batches())
    d, _, kept = slopes(weights, x, y)
    surrogate = backward(weights, kept, d / len(y))
    true = nets.gradients(weights, x, y)
    for n in true:
        np.testing.assert_allclose(surrogate[n], true[n])
