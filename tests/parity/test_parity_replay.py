"""Methods that replay stored examples follow a second implementation, as in test_parity_continual.

The numpy loops are written from the papers' rules, on the stream of that file.
"""

import math

import numpy as np
import pytest
import torch

from harness.errors import UserError
from harness.laws import small_workloads
from tests.parity.test_parity import Row
from tests.parity.test_parity_continual import (
    LENGTH,
    SGD,
    TASKS,
    Memory,
    Momentum,
    add,
    dot,
    er,
    steps,
)
from tests.support import nets
from tests.support.nets import BATCH, CLASSES, backward, forward, gradients, softmax


def nats(weights, x, y):
    return -np.log(softmax(forward(weights, x)[0])[np.arange(len(y)), y])


class Kept(Memory):
    """A memory whose examples have further numbers; a draw returns the places."""

    def __init__(self, generator):
        super().__init__(generator)
        self.more = []

    def add(self, x, y, more=()):
        super().add(x, y)
        self.more += list(more)

    def places(self, size=BATCH):
        if size <= len(self.y):
            return torch.randperm(len(self.y), generator=self.generator)[:size].numpy()
        return torch.randint(len(self.y), (size,), generator=self.generator).numpy()


def derpp(lr, momentum, alpha, beta):
    """CE(new) + α·MSE to the scores stored before the step + β·CE, two draws (2004.07211)."""
    weights, optimizer, memory = nets.start(), Momentum(lr, momentum), Kept(nets.draws())
    for t, (x, y) in steps():
        answers, _ = forward(weights, x)
        g = gradients(weights, x, y)
        if t:
            a = memory.places()
            scores, kept = forward(weights, memory.x[a])
            d = 2 * alpha * (scores - np.array(memory.more)[a]) / scores.size
            g = add(g, backward(weights, kept, d))
            if beta:
                b = memory.places()
                g = add(g, gradients(weights, memory.x[b], memory.y[b]), beta)
        optimizer.step(weights, g)
        memory.add(x, y, answers)
    return weights


def er_ace(lr, momentum, share):
    """New examples compete among the classes of their batch (2104.05025)."""

    def present(weights, x, y):
        scores, kept = forward(weights, x)
        absent = [c for c in range(CLASSES) if c not in set(y.tolist())]
        assert len(absent) == 1
        scores[:, absent] = -1e9
        return backward(weights, kept, (softmax(scores) - np.eye(CLASSES)[y]) / len(y))

    return er(lr, momentum, share, present)


def mir(lr, momentum, share, candidates):
    """Replay what θ − lr·∇L(new) makes worst (1908.04742)."""
    weights, optimizer, memory = nets.start(), Momentum(lr, momentum), Kept(nets.draws())
    for t, (x, y) in steps():
        g = gradients(weights, x, y)
        if t:
            c = memory.places(candidates * BATCH)
            ahead = add(weights, g, -lr)
            rise = nats(ahead, memory.x[c], memory.y[c]) - nats(weights, memory.x[c], memory.y[c])
            c = c[np.argsort(-rise, kind="stable")[:BATCH]]
            replay = gradients(weights, memory.x[c], memory.y[c])
            g = {name: share * g[name] + (1 - share) * replay[name] for name in g}
        optimizer.step(weights, g)
        memory.add(x, y)
    return weights


def cls_er(lr, momentum, reg, alpha, slow, fast):
    """Targets from the surer of two averages, ramps min(1 − 1/(t + 1), α) (2201.12604)."""
    weights, optimizer, generator = nets.start(), Momentum(lr, momentum), nets.draws()
    memory = Memory(generator)
    averages = [dict(weights), dict(weights)]
    for t, (x, y) in steps():
        if t:
            old, labels = memory.draw()
            each = [forward(average, old)[0] for average in averages]
            sure = [softmax(z)[np.arange(BATCH), labels] for z in each]
            target = np.where((sure[0] > sure[1])[:, None], *each)
            x, y = np.concatenate([x, old]), np.concatenate([y, labels])
            scores, kept = forward(weights, x)
            d = (softmax(scores) - np.eye(CLASSES)[y]) / len(y)
            d[BATCH:] += 2 * reg * (scores[BATCH:] - target) / target.size
            optimizer.step(weights, backward(weights, kept, d))
        else:
            optimizer.step(weights, gradients(weights, x, y))
        memory.add(x[:BATCH], y[:BATCH])
        for i, chance in enumerate((fast, slow)):
            if torch.rand((), generator=generator, dtype=torch.float64) < chance:
                a = min(1 - 1 / (t + 2), alpha)
                averages[i] = {n: a * w + (1 - a) * weights[n] for n, w in averages[i].items()}
    return averages[1]


def averaged(rate):
    """er whose weights are averaged, w̄ ← a·w̄ + (1 − a)·θ with a = rate(t) (2306.16817)."""

    def run(lr, momentum, share, average="", decay=0.0):
        weights, optimizer, memory = nets.start(), Momentum(lr, momentum), Memory(nets.draws())
        mean = dict(weights)
        for t, batch in steps():
            g = gradients(weights, *batch)
            if t:
                replay = gradients(weights, *memory.draw())
                g = {name: share * g[name] + (1 - share) * replay[name] for name in g}
            optimizer.step(weights, g)
            memory.add(*batch)
            a = rate(t, decay)
            mean = {n: a * w + (1 - a) * weights[n] for n, w in mean.items()}
        return mean

    return run


def er_agem(lr, momentum, share):
    """er's joint gradient, projected off the replay's where it points against it (2311.04898)."""
    weights, optimizer, memory = nets.start(), Momentum(lr, momentum), Memory(nets.draws())
    projected = 0
    for t, batch in steps():
        r = gradients(weights, *memory.draw()) if t else None
        g = gradients(weights, *batch)
        if r:
            g = {name: share * g[name] + (1 - share) * r[name] for name in g}
            if dot(g, r) < 0:
                projected += 1
                g = add(g, r, -dot(g, r) / dot(r, r))
        optimizer.step(weights, g)
        memory.add(*batch)
    assert projected
    return weights


def mix_cd(lr, momentum, share, bins):
    """Rehearsal in proportion to the damage seen in bins of the old loss (2402.08096)."""
    weights, optimizer, memory = nets.start(), Momentum(lr, momentum), Kept(nets.draws())
    damage, seen = np.ones(bins, dtype=np.float32), set()
    loss = right = np.zeros(0)
    for t, (x, y) in steps():
        if t and t % LENGTH == 0:
            loss = nats(weights, memory.x, memory.y).astype(np.float32)
            right = forward(weights, memory.x)[0].argmax(1) == memory.y
            edges = np.quantile(loss, np.arange(1, bins) / bins)
        g = gradients(weights, x, y)
        if len(loss):
            where = np.searchsorted(edges.astype(np.float32), loss)
            chance = torch.zeros(len(memory.y))
            chance[: len(loss)] = torch.from_numpy(np.maximum(damage, 1e-3)[where])
            c = torch.multinomial(chance, BATCH, True, generator=memory.generator).numpy()
            scores, kept = forward(weights, memory.x[c])
            lost = right[c] & (scores.argmax(1) != memory.y[c])
            for k in set(where[c].tolist()):
                damage[k] += np.float32(0.1) * (lost[where[c] == k].mean() - damage[k])
                seen.add(k)
            d = (softmax(scores) - np.eye(CLASSES)[memory.y[c]]) / BATCH
            replay = backward(weights, kept, d)
            g = {name: share * g[name] + (1 - share) * replay[name] for name in g}
        optimizer.step(weights, g)
        memory.add(x, y)
    assert len(seen) == bins
    assert len(set(damage.tolist())) > 1
    return weights


MIXED = {**SGD, "share": 0.3}
FORMULAS = [
    Row("derpp", derpp, {**SGD, "alpha": 0.4, "beta": 0.7}, package=""),
    Row("derpp", derpp, {**SGD, "alpha": 0.4, "beta": 0.0}, package="", label="der"),
    Row("mir", mir, {**MIXED, "candidates": 2}, package=""),
    Row("cls_er", cls_er, {**SGD, "reg": 0.4, "alpha": 0.95, "slow": 0.6, "fast": 0.9}, package=""),
    Row("ema_er", averaged(lambda t, a: a), {**MIXED, "average": "constant", "decay": 0.9},
        package=""),
    Row("ema_er", averaged(lambda t, a: min(1 - 1 / (t + 2), a)),
        {**MIXED, "average": "ramp", "decay": 0.9}, package="", label="ramp"),
    Row("ema_er", averaged(lambda t, a: 1 - 1 / (t % LENGTH + 1)), {**MIXED, "average": "window"},
        package="", label="window"),
    Row("er_agem", er_agem, {**SGD, "share": 0.95}, package=""),
    Row("mix_cd", mix_cd, {**MIXED, "bins": 5}, package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
def test_replay_method_equals_its_formula(row):
    submission = nets.submitted(row.submission, nets.task(tasks=TASKS), **row.hp)
    assert nets.difference(nets.run(submission), row.second(**row.hp)) <= row.float64


def test_er_ace_equals_its_formula(monkeypatch):
    """Every batch lacks a class."""
    made = nets.task

    def task(**keywords):
        result, index = made(**keywords), torch.arange(nets.EXAMPLES)
        result._data["targets"] = (index // BATCH + index % 2) % CLASSES
        return result

    monkeypatch.setattr(nets, "task", task)
    submission = nets.submitted("er_ace", task(tasks=TASKS), **MIXED)
    assert nets.difference(nets.run(submission), er_ace(**MIXED)) <= 1e-11


def test_er_ace_pushes_no_score_of_an_absent_class():
    task = nets.task(tasks=TASKS)
    submission = nets.submitted("er_ace", task)
    batch = {"inputs": torch.randn(4, 8).double(), "targets": torch.tensor([1, 0, 0, 1])}
    task.backward(batch, submission.algorithm.present)
    assert not task.model.readout.weight.grad[2].any()
    assert task.model.readout.weight.grad[:2].any()


def test_scores_that_are_kept_count_against_the_memory():
    task = nets.task(tasks=TASKS, memory=10_000)
    submission = nets.submitted("derpp", task)
    nets.run(submission)
    one = (8 + CLASSES) * 8 + 8
    assert len(submission.algorithm.memory) == min(math.floor(10_000 / one), nets.STEPS * BATCH)


@pytest.mark.parametrize("name", ["er_ace", "icarl", "packnet"])
def test_sequences_have_no_label_each_and_are_refused_in_words(name):
    task = small_workloads.read("stream_text").task()
    submission = nets.submitted(name, task)
    with pytest.raises(UserError, match="do not have one label each"):
        submission.step()


def test_a_memory_is_judged_once_a_task():
    """Mix-CD keeps the old model's loss and verdict beside each example; new ones have none."""
    task = nets.task(tasks=TASKS)
    submission = nets.submitted("mix_cd", task)
    nets.run(submission, LENGTH + 2)
    kept = submission.algorithm.memory.data
    old = torch.arange((LENGTH + 2) * BATCH) < LENGTH * BATCH
    assert bool((kept["old_right"][old] >= 0).all())
    assert bool((kept["old_right"][~old] == -1).all())
