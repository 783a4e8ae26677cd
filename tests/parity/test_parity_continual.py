"""Continual methods follow a second implementation of their rule, step by step.

On a stream of four tasks for the network of tests/support/nets.py, in float64: numpy loops
written from the papers. The memory holds the whole stream, so that only what
is drawn from it is random, and that is drawn again from an equal generator.
"""

from itertools import combinations

import numpy as np
import pytest
import torch

from tests.parity.test_parity import Row
from tests.support import nets
from tests.support.nets import (
    BATCH,
    CLASSES,
    STEPS,
    WIDTHS,
    Adam,
    backward,
    forward,
    gradients,
    rate,
    softmax,
)

TASKS, LENGTH = 4, STEPS // 4
SGD = {"lr": 0.05, "momentum": 0.8}


class Momentum:
    """m ← μm + g; p ← p − lr·m."""

    def __init__(self, lr, momentum):
        self.lr, self.momentum, self.m = lr, momentum, {}

    def step(self, weights, grads):
        for name, g in grads.items():
            self.m[name] = self.momentum * self.m.get(name, 0.0) + g
            weights[name] = weights[name] - self.lr * self.m[name]


class Memory:
    """Everything that was put in; batches of it drawn without repetition while there is enough."""

    def __init__(self, generator):
        self.generator, self.x, self.y = generator, np.zeros((0, 8)), np.zeros(0, dtype=int)

    def add(self, x, y):
        self.x, self.y = np.concatenate([self.x, x]), np.concatenate([self.y, y])

    def draw(self):
        assert len(self.y) >= BATCH
        index = torch.randperm(len(self.y), generator=self.generator)[:BATCH].numpy()
        return self.x[index], self.y[index]


def steps():
    return zip(range(STEPS), nets.batches(TASKS))


def add(a, b, factor=1.0):
    return {name: a[name] + factor * b[name] for name in a}


def dot(a, b):
    return sum((a[name] * b[name]).sum() for name in a)


def joint(lr, momentum):
    weights, optimizer, memory = nets.start(), Momentum(lr, momentum), Memory(nets.draws())
    for _, batch in steps():
        memory.add(*batch)
        optimizer.step(weights, gradients(weights, *memory.draw()))
    return weights


def er(lr, momentum, share, new=gradients):
    """share·g(new) + (1 − share)·g(replay), once there is something to replay."""
    weights, optimizer, memory = nets.start(), Momentum(lr, momentum), Memory(nets.draws())
    for t, batch in steps():
        g = new(weights, *batch)
        if t:
            replay = gradients(weights, *memory.draw())
            g = {name: share * g[name] + (1 - share) * replay[name] for name in g}
        optimizer.step(weights, g)
        memory.add(*batch)
    return weights


def uer(lr, momentum, share, scale):
    """er whose new examples are scored by s·cos(w_c, f) (arXiv 2309.04081)."""

    def angles(weights, x, y):
        _, kept = forward(weights, x)
        f, w = kept[-1], weights["readout.weight"]
        a, b = np.sqrt((f**2).sum(1, keepdims=True)), np.sqrt((w**2).sum(1, keepdims=True))
        cosine = f @ w.T / (a * b.T)
        d = scale * (softmax(scale * cosine) - np.eye(CLASSES)[y]) / len(y)
        below = (d / b.T) @ w / a - (d * cosine).sum(1, keepdims=True) * f / a**2
        g = backward(weights, kept, np.zeros_like(d), below)
        g["readout.weight"] = (d / a).T @ f / b - (d * cosine).sum(0)[:, None] * w / b**2
        return g

    return er(lr, momentum, share, angles)


def rewarm_replay(lr, wd, beta1, beta2, eps, warmup, replay):
    """A warm-up and a cosine to a tenth in every task, on er's gradient (arXiv 2403.08763)."""
    weights, memory = nets.start(), Memory(nets.draws())
    optimizer = Adam(beta1, beta2, eps)
    for t, batch in steps():
        g = gradients(weights, *batch)
        if t:
            old = gradients(weights, *memory.draw())
            g = {name: (1 - replay) * g[name] + replay * old[name] for name in g}
        p = (t % LENGTH + 0.5) / LENGTH
        factor = p / warmup if p < warmup else 0.1 + 0.9 * rate(t % LENGTH, LENGTH, warmup)
        optimizer.step(weights, g, lr * factor, wd)
        memory.add(*batch)
    return weights


def agem(lr, momentum):
    weights, optimizer, memory = nets.start(), Momentum(lr, momentum), Memory(nets.draws())
    projected = 0
    for t, batch in steps():
        r = gradients(weights, *memory.draw()) if t else None
        g = gradients(weights, *batch)
        if r and dot(g, r) < 0:
            projected += 1
            g = add(g, r, -dot(g, r) / dot(r, r))
        optimizer.step(weights, g)
        memory.add(*batch)
    assert projected
    return weights


def gem(lr, momentum, margin):
    """The dual of arXiv 1706.08840, section 3: its optimality conditions are tried set by set."""
    weights, optimizer, generator = nets.start(), Momentum(lr, momentum), nets.draws()
    memories, projected = [], 0
    for t, batch in steps():
        if t % LENGTH == 0:
            memories.append(Memory(generator))
        past = [gradients(weights, *m.draw()) for m in memories[:-1]]
        g = gradients(weights, *batch)
        if min((dot(g, p) for p in past), default=0.0) < 0:
            projected += 1
            square = np.array([[dot(a, b) for b in past] for a in past])
            square += 1e-3 * np.diag(square).mean() * np.eye(len(past))
            linear = np.array([dot(g, p) for p in past])
            for v in dual(square, linear, margin):
                g = {name: g[name] + sum(a * p[name] for a, p in zip(v, past)) for name in g}
                break
        optimizer.step(weights, g)
        memories[-1].add(*batch)
    assert projected
    return weights


def dual(square, linear, margin):
    """Each v ≥ margin where ½vᵀPv + qᵀv is least (there is one)."""
    everything = range(len(linear))
    for size in range(len(linear) + 1):
        for free in map(list, combinations(everything, size)):
            v = np.full(len(linear), margin)
            fixed = [i for i in everything if i not in free]
            right = -(linear[free] + square[np.ix_(free, fixed)] @ v[fixed])
            v[free] = np.linalg.solve(square[np.ix_(free, free)], right)
            slope = square @ v + linear
            if (v[free] >= margin).all() and (slope[fixed] >= 0).all():
                yield v


def anchored(lr, momentum, lam, importance):
    """g ← g + λ·Ω(θ − θ*); `importance(Ω, θ, θ*)` makes Ω anew at every boundary."""
    weights, optimizer, omega, anchor = nets.start(), Momentum(lr, momentum), None, None
    for t, batch in steps():
        if t and t % LENGTH == 0:
            omega, anchor = importance(omega, weights, anchor), dict(weights)
        g = gradients(weights, *batch)
        if anchor:
            g = {n: g[n] + lam * omega[n] * (weights[n] - anchor[n]) for n in g}
        optimizer.step(weights, g)
    return weights


def l2(lr, momentum, lam):
    ones = dict.fromkeys(nets.start(), 1.0)
    return anchored(lr, momentum, lam, lambda *_: ones)


def per_task(generator, measure, decay, batches):
    """Ω ← decay·Ω + the mean of `measure(weights, x)` over batches of the past task's memory."""
    stream, kept = nets.batches(TASKS), []

    def importance(omega, weights, anchor):
        memory = Memory(generator)
        for _ in range(LENGTH):
            memory.add(*next(stream))
        new = dict.fromkeys(weights, 0.0)
        for _ in range(batches):
            new = add(new, measure(weights, memory.draw()[0]), 1 / batches)
        kept.append(new)
        return add(new, omega, decay) if omega else new

    return importance


def ewc(lr, momentum, lam, decay, batches):
    """F = B·mean of squared gradients against drawn labels (online EWC, arXiv 1805.06370)."""
    generator = nets.draws()

    def fisher(weights, x):
        q = torch.from_numpy(softmax(forward(weights, x)[0]))
        drawn = torch.multinomial(q, 1, generator=generator)[:, 0].numpy()
        return {n: BATCH * g**2 for n, g in gradients(weights, x, drawn).items()}

    return anchored(lr, momentum, lam, per_task(generator, fisher, decay, batches))


def mas(lr, momentum, lam, decay, batches):
    """|∂ mean ‖z‖²/∂θ| (arXiv 1711.09601, over batches)."""

    def length(weights, x):
        scores, kept = forward(weights, x)
        return {n: np.abs(g) for n, g in backward(weights, kept, 2 * scores / len(x)).items()}

    return anchored(lr, momentum, lam, per_task(nets.draws(), length, decay, batches))


def si(lr, momentum, lam, damping):
    """Path integrals of −g·Δθ (arXiv 1703.04200, equations 3 to 5)."""
    weights, optimizer = nets.start(), Momentum(lr, momentum)
    zeros = {n: np.zeros_like(w) for n, w in weights.items()}
    path, omega, anchor = dict(zeros), dict(zeros), dict(weights)
    for t, batch in steps():
        if t and t % LENGTH == 0:
            for n in weights:
                gained = np.maximum(path[n], 0) / ((weights[n] - anchor[n]) ** 2 + damping)
                omega[n] = omega[n] + gained
            path, anchor = dict(zeros), dict(weights)
        g, before = gradients(weights, *batch), dict(weights)
        pulled = {n: g[n] + lam * omega[n] * (weights[n] - anchor[n]) for n in g}
        optimizer.step(weights, pulled)
        path = {n: path[n] - g[n] * (weights[n] - before[n]) for n in g}
    return weights


def lwf(lr, momentum, alpha, temperature):
    """α·KL(old ‖ new) at a temperature over the outputs taught before the boundary."""
    weights, optimizer, old, taught = nets.start(), Momentum(lr, momentum), None, set()
    for t, (x, y) in steps():
        if t and t % LENGTH == 0:
            old, outputs = dict(weights), sorted(taught)
        scores, kept = forward(weights, x)
        d = (softmax(scores) - np.eye(CLASSES)[y]) / len(y)
        if old:
            now, then = (z[:, outputs] / temperature for z in (scores, forward(old, x)[0]))
            d[:, outputs] += alpha / temperature * (softmax(now) - softmax(then)) / len(y)
        optimizer.step(weights, backward(weights, kept, d))
        taught |= set(y.tolist())
    return weights


def supsup(lr, beta1, beta2):
    """Signed constants under a learnt mask for each task (arXiv 2006.14769)."""
    first, generator = nets.start(), nets.draws()
    names = [n for n, w in first.items() if w.ndim > 1]
    fixed = {n: np.sign(first[n]) * np.sqrt(2 / first[n].shape[1]) for n in names}
    weights = {n: 0 * w if n.endswith("bias") else w for n, w in first.items()} | fixed
    for t, batch in steps():
        if t % LENGTH == 0:
            optimizer, scores = Adam(beta1, beta2), {}
            for n in names:
                drawn = torch.rand(fixed[n].shape, generator=generator, dtype=torch.float64).numpy()
                scores[n] = (2 * drawn - 1) / np.sqrt(fixed[n].shape[1])
        g = gradients(weights | {n: fixed[n] * (scores[n] >= 0) for n in names}, *batch)
        optimizer.step(scores, {n: g[n] * fixed[n] for n in names}, lr)
    return weights | {n: fixed[n] * (scores[n] >= 0) for n in names}


FORMULAS = [
    Row("joint", joint, SGD, package=""),
    Row("er", er, {**SGD, "share": 0.3}, package=""),
    Row("uer", uer, {**SGD, "share": 0.3, "scale": 5.0}, package=""),
    Row("rewarm_replay", rewarm_replay, {"lr": 0.02, "wd": 0.1, "beta1": 0.9, "beta2": 0.95,
        "eps": 1e-8, "warmup": 0.3, "replay": 0.25}, package=""),
    Row("agem", agem, SGD, package=""),
    Row("gem", gem, {**SGD, "margin": 0.1}, package="", float64=1e-9),
    Row("l2", l2, {**SGD, "lam": 0.7}, package=""),
    Row("ewc", ewc, {**SGD, "lam": 3.0, "decay": 0.9, "batches": 3}, package=""),
    Row("mas", mas, {**SGD, "lam": 0.3, "decay": 0.9, "batches": 3}, package=""),
    Row("si", si, {**SGD, "lam": 3.0, "damping": 0.01}, package=""),
    Row("lwf", lwf, {**SGD, "alpha": 2.0, "temperature": 2.0}, package=""),
    Row("supsup", supsup, {"lr": 0.05, "beta1": 0.9, "beta2": 0.99}, package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
def test_continual_method_equals_its_formula(row):
    submission = nets.submitted(row.submission, nets.task(tasks=TASKS), **row.hp)
    assert nets.difference(nets.run(submission), row.second(**row.hp)) <= row.float64


LIMITS = [  # while nothing has to give way, any memory is a reservoir
    Row("er_balanced", er, {**SGD, "share": 0.3}, package="", label="a memory that holds all"),
]


@pytest.mark.parametrize("row", LIMITS, ids=str)
def test_continual_method_has_its_limit(row):
    submission = nets.submitted(row.submission, nets.task(tasks=TASKS), **row.hp)
    assert nets.difference(nets.run(submission), row.second(**row.hp)) <= row.float64


def balanced(lr, momentum, share, room, stays_full):
    """er whose memory is a class-balancing reservoir (Chrysakis and Moens, ICML 2020).

    A class is full while it is among the largest of a full memory, or for ever after if
    `stays_full`. A full class is a reservoir of its own; an example of any other class takes the
    place of one of a largest class. Returns the weights, and how often each of the three happened.
    """
    weights, optimizer, draws = nets.start(), Momentum(lr, momentum), nets.draws()
    held, seen, full, happened = [], dict.fromkeys(range(CLASSES), 0), set(), {}

    def places(classes):
        return [place for place, (_, label) in enumerate(held) if label in classes]

    for _, (x, y) in steps():
        g = gradients(weights, x, y)
        if held:
            drawn = torch.randperm(len(held), generator=draws)[:BATCH].tolist()
            old = [np.stack(part) for part in zip(*(held[i] for i in drawn))]
            g = add({n: share * v for n, v in g.items()}, gradients(weights, *old), 1 - share)
        optimizer.step(weights, g)
        begun = min(room - len(held), len(y))
        held += list(zip(x[:begun], y[:begun]))
        for i, example in enumerate(zip(x, y)):
            label = example[1]
            seen[label] += 1
            if len(held) < room:
                continue
            count = [len(places([c])) for c in range(CLASSES)]
            largest = {c for c in range(CLASSES) if count[c] == max(count)}
            full = full | largest if stays_full else largest
            if i < begun:
                continue
            luck, which = torch.rand(2, generator=draws, dtype=torch.float64).tolist()
            if label not in full:
                free, what = places(largest), "replaced a largest"
            elif luck < count[label] / seen[label]:
                free, what = places([label]), "replaced its own"
            else:
                free, what = [], "went by"
            if free:
                held[free[int(which * len(free))]] = example
            happened[what] = happened.get(what, 0) + 1
    return weights, happened


def test_er_balanced_equals_its_formula():
    """The rule of er_balanced's docstring; a class that stays full takes another path here."""
    hp, size = {**SGD, "share": 0.3}, 8 * (WIDTHS[0][0] + 1)  # bytes of an example
    for room in (10, 20):
        task = nets.task(tasks=TASKS, memory=room * size)
        found = nets.run(nets.submitted("er_balanced", task, **hp))
        second, happened = balanced(**hp, room=room, stays_full=False)
        assert min(happened.values()) > 5
        assert len(happened) == 3
        assert nets.difference(found, second) <= 1e-9
        assert nets.difference(balanced(**hp, room=room, stays_full=True)[0], second) > 1e-2
