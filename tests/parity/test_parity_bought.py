"""Methods that buy labels follow a second loop in float64, on the network of tests/support/nets.py.

A quarter of the examples has a label from the start. The order of the examples, and random numbers,
are those of an equal task; what is bought is computed here.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from submissions.data import core_set, margin, pivotal
from tests.parity.test_parity import Row
from tests.parity.test_parity_labels import ADAMW, data
from tests.support import nets
from tests.support.nets import EXAMPLES, Adam, forward, gradients, rate, softmax

STEPS, START, LABELS = 60, 16, 30


def buying_task():
    """Return the task of nets where 16 of 64 examples have a label."""
    return nets.task(
        STEPS,
        labels=SimpleNamespace(tensor="targets", start=START, price=1, rounds=0, size=0),
    )


def loop(choose):
    """Return a loop of AdamW that buys `choose(weights, x, known, unknown, count, generator)`."""

    def run(labels, size, lr, wd, beta2, **hp):
        x, y = data()
        generator, stream = nets.draws(), buying_task()
        weights, optimizer = nets.start(), Adam(beta2=beta2)
        for t in range(STEPS):
            known = stream.labelled.numpy()
            unknown = np.setdiff1d(np.arange(EXAMPLES), known)
            count = min(size, labels - len(known))
            if (t + 1) % 20 == 0 and count > 0:
                drawn = unknown[torch.randperm(len(unknown), generator=generator).numpy()]
                stream.reveal(torch.from_numpy(choose(weights, x, known, drawn, count, generator)))
            now = stream.next_index().numpy()
            optimizer.step(weights, gradients(weights, x[now], y[now]), lr * rate(t, STEPS), wd)
        return weights

    return run


def by_margin(weights, x, known, drawn, count, generator):
    p = np.sort(softmax(forward(weights, x[drawn])[0]), axis=1)
    return drawn[np.argsort(p[:, -1] - p[:, -2], kind="stable")[:count]]


def by_entropy(weights, x, known, drawn, count, generator):
    p = softmax(forward(weights, x[drawn])[0])
    return drawn[np.argsort((p * np.log(p)).sum(1), kind="stable")[:count]]


def at_random(weights, x, known, drawn, count, generator):
    return drawn[:count]


def by_centres(weights, x, known, drawn, count, generator):
    """Greedy k-centre, with all distances anew for each choice."""
    f, centres, left = forward(weights, x)[1][-1], list(known), list(drawn)
    for _ in range(count):
        near = [min(np.linalg.norm(f[i] - f[c]) for c in centres) for i in left]
        centres.append(left.pop(int(np.argmax(near))))
    return np.array(centres[len(known) :])


def by_leverage(weights, x, known, drawn, count, generator):
    """The hat matrix's diagonal, c by bisection, and the tournament as the paper tells it."""
    f = forward(weights, x[drawn])[1][-1]
    tau = np.diag(f @ np.linalg.pinv(f, rcond=1e-6))
    low, high = 0.0, 1e6
    for _ in range(200):
        c = (low + high) / 2
        low, high = (c, high) if np.minimum(1, c * tau).sum() < count else (low, c)
    p = np.minimum(1, high * tau)
    around = f - f.mean(0)
    axis = np.linalg.eigh(around.T @ around)[1][:, -1]
    axis = axis * np.sign(axis[np.argmax(np.abs(axis))])
    chances, won = torch.rand(len(p), generator=generator).tolist(), []
    order = np.argsort(around @ axis)
    i = order[0]
    for j, u in zip(order[1:], chances):
        both = p[i] + p[j]
        if both <= 1:
            first = u < p[i] / both
            p[i], p[j] = (both, 0) if first else (0, both)
            i = i if first else j
        else:
            first = u < (1 - p[j]) / (2 - both)
            p[i], p[j] = (1, both - 1) if first else (both - 1, 1)
            won.append(i if first else j)
            i = j if first else i
    return drawn[np.array(won + [i] * (round(p[i]) == 1), dtype=int)]


BUYING = {**ADAMW, "labels": LABELS, "size": 6}
BOUGHT = [
    Row("margin", loop(by_margin), {**BUYING, "score": "margin"}, package=""),
    Row("margin", loop(by_entropy), {**BUYING, "score": "entropy"}, package="", label="entropy"),
    Row("random_labels", loop(at_random), BUYING, package=""),
    Row("core_set", loop(by_centres), BUYING, package=""),
    Row("pivotal", loop(by_leverage), BUYING, package=""),
]


@pytest.mark.parametrize("row", BOUGHT, ids=str)
def test_method_that_buys_labels_equals_its_second_loop(row):
    submission = nets.submitted(row.submission, buying_task(), **row.hp)
    second = row.second(**row.hp)
    assert nets.difference(nets.run(submission, STEPS), second) <= 1e-9
    assert len(submission.task.labelled) == LABELS
    assert submission.task.meter.counts["label"] == LABELS - START


def test_least_sure_of_a_computed_example():
    p = torch.tensor([[0.5, 0.5, 0.0], [0.9, 0.05, 0.05], [0.4, 0.3, 0.3]])
    logits = p.clamp_min(1e-9).log()
    assert margin.least_sure(logits, "margin", 2).tolist() == [0, 2]
    assert margin.least_sure(logits, "entropy", 2).tolist() == [2, 0]


def test_farthest_covers_a_line_from_its_ends():
    points = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]])
    assert core_set.farthest(points, torch.tensor([[0.0]]), 3).tolist() == [4, 3, 1]


def test_probabilities_are_capped_and_add_up():
    p = pivotal.probabilities(torch.tensor([8.0, 1.0, 1.0, 1.0, 1.0]), 2)
    assert torch.allclose(p, torch.tensor([1.0, 0.25, 0.25, 0.25, 0.25]))
    scores = torch.rand(50, generator=torch.Generator().manual_seed(0)) ** 4
    p = pivotal.probabilities(scores, 20)
    assert float(p.sum()) == pytest.approx(20, abs=1e-4)
    assert float(p.max()) <= 1


def test_pivotal_sample_has_its_size_and_its_probabilities():
    """Each example is taken as often as its probability says, and neighbours seldom together."""
    p = torch.tensor([0.5, 0.25, 0.25, 0.5, 0.9, 0.6], dtype=torch.float64)
    generator, order = torch.Generator().manual_seed(0), torch.arange(6)
    taken = torch.zeros(4000, 6)
    for row in taken:
        chosen = pivotal.pivotal(p, order, generator)
        assert len(chosen) == 3
        row[chosen] = 1
    assert torch.allclose(taken.mean(0), p.float(), atol=0.04)
    together = float((taken[:, 0] * taken[:, 1]).mean())
    assert together < 0.01 < float(p[0] * p[1])
