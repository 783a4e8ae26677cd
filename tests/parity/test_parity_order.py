"""Methods that choose, weight or order examples follow a second loop in float64.

On the network of tests/support/nets.py: numpy loops written from the papers.
"""

import itertools

import numpy as np
import pytest
import torch

from submissions.data.calibrated_pruning import chosen
from tests.parity.test_parity import Row
from tests.parity.test_parity_labels import ADAMW, SGD, data, nats, order, weighted
from tests.support import nets
from tests.support.nets import (
    BATCH,
    CLASSES,
    EXAMPLES,
    Adam,
    forward,
    gradients,
    rate,
    softmax,
)

STEPS = 48


def infobatch(ratio, **hp):
    """Random halves of the examples below the mean loss (arXiv 2303.04947)."""
    (x, y), generator = data(), nets.draws()
    weights, optimizer = nets.start(), Adam(beta2=hp["beta2"])
    scores, waiting, pruned = np.full(EXAMPLES, 3.0, dtype=np.float32), [], 0
    for t in range(STEPS):
        while len(waiting) < BATCH:
            order = torch.randperm(EXAMPLES, generator=generator).numpy()
            share = dict.fromkeys(range(EXAMPLES), 1.0)
            if (t + 0.5) / STEPS < 0.875:
                easy = [i for i in order if scores[i] < scores.mean()]
                kept = int((1 - ratio) * len(easy))
                share |= dict.fromkeys(easy[:kept], 1 / (1 - ratio))
                share |= dict.fromkeys(easy[kept:], 0.0)
                pruned += len(easy) - kept
                order = order[torch.randperm(EXAMPLES, generator=generator).numpy()]
            waiting += [(i, share[i]) for i in order if share[i]]
        batch, waiting = waiting[:BATCH], waiting[BATCH:]
        now, share = np.array([i for i, _ in batch]), np.array([w for _, w in batch])
        scores[now] = nats(weights, x[now], y[now])
        g = weighted(weights, x[now], y[now], share / BATCH)
        optimizer.step(weights, g, hp["lr"] * rate(t, STEPS), hp["wd"])
    assert pruned
    return weights


def calibrated_pruning(score, share, by_score, **hp):
    """A quarter of the steps scores; then a weighted subset (arXiv 2302.06960)."""
    (x, y), generator, stream = data(), nets.draws(), order()
    weights, optimizer = nets.start(), Adam(beta2=hp["beta2"])
    scores, visited = np.full(EXAMPLES, -1.0), [[] for _ in range(EXAMPLES)]
    kept, left = None, []
    for t in range(STEPS):
        now, shares = None, np.ones(BATCH)
        if (t + 0.5) / STEPS < 0.25:
            now = next(stream)
            p = softmax(forward(weights, x[now])[0])
            scores[now] = np.sqrt(((p - np.eye(CLASSES)[y[now]]) ** 2).sum(1))
            for i, q in zip(now, p):
                visited[i].append(q.argmax() == y[i])
        else:
            if kept is None:
                if score == "forgetting":
                    scores = np.array([
                        -1 if not v else np.inf if not any(v)
                        else sum(a and not b for a, b in itertools.pairwise(v)) for v in visited
                    ])  # fmt: skip
                best = np.argsort(-scores.astype(np.float32), kind="stable")
                k1 = round(by_score * share * EXAMPLES)
                k2 = round(share * EXAMPLES) - k1
                rest = best[k1:][torch.randperm(EXAMPLES - k1, generator=generator).numpy()[:k2]]
                kept = [(i, 1.0) for i in best[:k1]]
                kept += [(i, (EXAMPLES - k1) / k2) for i in rest]
                assert sum(w for _, w in kept) == pytest.approx(EXAMPLES)
            while len(left) < BATCH:
                left += torch.randperm(len(kept), generator=generator).tolist()
            now = np.array([kept[i][0] for i in left[:BATCH]])
            shares = np.array([kept[i][1] for i in left[:BATCH]]) * len(kept) / EXAMPLES
            left = left[BATCH:]
        g = weighted(weights, x[now], y[now], shares / BATCH)
        optimizer.step(weights, g, hp["lr"] * rate(t, STEPS), hp["wd"])
    return weights


def grand_pruning(share, **hp):
    """Norms of single gradients rank the examples (arXiv 2107.07075)."""
    (x, y), generator, stream = data(), nets.draws(), order()
    weights, optimizer = nets.start(), Adam(beta2=hp["beta2"])
    scores, kept, left = np.full(EXAMPLES, -1.0), None, []
    for t in range(STEPS):
        if (t + 0.5) / STEPS < 0.25:
            now = next(stream)
            for i in now:
                alone = gradients(weights, x[i : i + 1], y[i : i + 1])
                scores[i] = np.sqrt(sum((g**2).sum() for g in alone.values()))
        else:
            if kept is None:
                ranked = sorted(range(EXAMPLES), key=lambda i: (-np.float32(scores[i]), i))
                kept = np.array(ranked[: round(share * EXAMPLES)])
            while len(left) < BATCH:
                left += torch.randperm(len(kept), generator=generator).tolist()
            now, left = kept[left[:BATCH]], left[BATCH:]
        g = gradients(weights, x[now], y[now])
        optimizer.step(weights, g, hp["lr"] * rate(t, STEPS), hp["wd"])
    return weights


def feasible_learning(probability, dual_lr, **hp):
    """Dual ascent on the batch's multipliers, then primal descent (arXiv 2501.14912)."""
    (x, y), stream = data(), order()
    weights, optimizer, mu = nets.start(), Adam(beta2=hp["beta2"]), np.zeros(EXAMPLES)
    for t in range(STEPS):
        now = next(stream)
        mu[now] = np.maximum(
            0, mu[now] + dual_lr * (nats(weights, x[now], y[now]) + np.log(probability))
        )
        g = weighted(weights, x[now], y[now], mu[now] / BATCH)
        optimizer.step(weights, g, hp["lr"] * rate(t, STEPS), hp["wd"])
    return weights


def curriculum(begin, whole, hardest, **hp):
    """A growing pool in the order of a first run's losses (arXiv 2012.03107)."""
    (x, y), generator, stream = data(), nets.draws(), order()
    weights, optimizer = nets.start(), Adam(beta2=hp["beta2"])
    losses, ranked = {}, None
    for t in range(STEPS):
        p = (t + 0.5) / STEPS
        if p < 0.2:
            now = next(stream)
            losses |= dict(zip(now.tolist(), nats(weights, x[now], y[now])))
        else:
            if ranked is None:
                side = -1 if hardest else 1
                seen = sorted(losses, key=lambda i: (np.float32(side * losses[i]), i))
                ranked = np.array([*seen, *[i for i in range(EXAMPLES) if i not in losses]])
            share = min(1.0, begin + (1 - begin) * (p - 0.2) / 0.8 / whole)
            pool = ranked[: max(1, round(share * EXAMPLES))]
            now = pool[torch.randint(len(pool), (BATCH,), generator=generator).numpy()]
        g = gradients(weights, x[now], y[now])
        optimizer.step(weights, g, hp["lr"] * rate(t, STEPS), hp["wd"])
    return weights


def grab(balance, lr, wd, momentum, nesterov):
    """Herding with signs, on units of one example (arXiv 2205.10733)."""
    (x, y), generator = data(), nets.draws()
    sigma = torch.randperm(EXAMPLES, generator=generator).tolist()
    numbers = torch.randperm(EXAMPLES, generator=generator).tolist()
    weights, buffers = nets.start(), {n: 0.0 for n in nets.start()}  # noqa: C420

    def flat(g):
        return np.concatenate([g[n].ravel() for n in weights])

    count = sum(w.size for w in weights.values())
    mean, at, moves = np.zeros(count), 0, 0
    for t in range(STEPS):
        grads = []
        for _ in range(BATCH):
            if at == 0:
                s, total, front, back, before = np.zeros(count), np.zeros(count), [], [], None
            unit = sigma[at]
            i = numbers[unit]
            g = gradients(weights, x[i : i + 1], y[i : i + 1])
            grads.append(g)
            total = total + flat(g) / EXAMPLES
            if balance == "mean":
                c = flat(g) - mean
                front_end = np.linalg.norm(s + c) <= np.linalg.norm(s - c)
                s = s + (c if front_end else -c)
                (front if front_end else back).append(unit)
            elif balance == "pair" and before is None:
                before = unit, flat(g)
            elif balance == "pair":
                d = before[1] - flat(g)
                front_end = np.linalg.norm(s + d) <= np.linalg.norm(s - d)
                s = s + (d if front_end else -d)
                pair = (before[0], unit) if front_end else (unit, before[0])
                front.append(pair[0])
                back.append(pair[1])
                before = None
            at += 1
            if at == EXAMPLES:
                new = sigma if balance == "none" else front + back[::-1]
                moves += new != sigma
                sigma, mean, at = new, total, 0
        for n in weights:
            u = np.mean([g[n] for g in grads], axis=0) + wd * weights[n]
            buffers[n] = momentum * buffers[n] + u
            step = u + momentum * buffers[n] if nesterov else buffers[n]
            weights[n] = weights[n] - lr * rate(t, STEPS) * step
    assert bool(moves) == (balance != "none")
    return weights


ORDERS = [
    Row("infobatch", infobatch, {**ADAMW, "ratio": 0.5}, package=""),
    Row("calibrated_pruning", calibrated_pruning,
        {**ADAMW, "score": "el2n", "share": 0.5, "by_score": 0.5}, package=""),
    Row("calibrated_pruning", calibrated_pruning,
        {**ADAMW, "score": "forgetting", "share": 0.5, "by_score": 0.5}, package="",
        label="forgetting"),
    Row("grand_pruning", grand_pruning, {**ADAMW, "share": 0.4}, package=""),
    Row("feasible_learning", feasible_learning, {**ADAMW, "probability": 0.6, "dual_lr": 0.5},
        package="", float64=1e-5),
    Row("curriculum", curriculum, {**ADAMW, "begin": 0.2, "whole": 0.8, "hardest": False},
        package=""),
    Row("curriculum", curriculum, {**ADAMW, "begin": 0.2, "whole": 0.8, "hardest": True},
        package="", label="anti"),
    Row("grab", grab, {**SGD, "balance": "mean"}, package=""),
    Row("grab", grab, {**SGD, "balance": "pair"}, package="", label="pair"),
    Row("grab", grab, {**SGD, "balance": "none"}, package="", label="once"),
]  # fmt: skip


@pytest.mark.parametrize("row", ORDERS, ids=str)
def test_order_method_equals_its_second_loop(row):
    submission = nets.submitted(row.submission, nets.task(STEPS), **row.hp)
    second = row.second(**row.hp)
    assert nets.difference(nets.run(submission, STEPS), second) <= max(row.float64, 1e-9)


def test_grand_of_the_readout_is_el2n_times_the_length_of_its_inputs():
    """grand_pruning's norm, of the readout alone; its bias adds 1 to the squared length."""
    (x, y), weights = data(), nets.start()
    for i in range(8):
        scores, kept = forward(weights, x[i : i + 1])
        g = gradients(weights, x[i : i + 1], y[i : i + 1])
        norm = np.sqrt(sum((g[n] ** 2).sum() for n in nets.HEAD))
        el2n = np.linalg.norm(softmax(scores)[0] - np.eye(CLASSES)[y[i]])
        assert norm == pytest.approx(el2n * np.sqrt((kept[-1] ** 2).sum() + 1))


def test_infobatch_that_prunes_nothing_is_adamw_in_random_order():
    """With ratio 0 all weights are 1, and each epoch visits every example once."""
    submission = nets.submitted("infobatch", nets.task(STEPS), **ADAMW, ratio=0.0)
    nets.run(submission, EXAMPLES // BATCH)
    algorithm = submission.algorithm
    assert float((algorithm.epoch["scores"] == 3.0).sum()) == 0


def test_calibrated_weights_are_unbiased():
    """Averaged over draws the weighted subset is the whole, whatever the scores."""
    scores = torch.tensor([0.1, 5.0, 2.0, 0.3, 1.0, 0.2, 0.7, 3.0])
    values, generator = torch.arange(8.0) ** 2, torch.Generator().manual_seed(0)
    sums = []
    for _ in range(4000):
        index, weights = chosen(scores, 0.5, 0.5, generator)
        assert float(weights.sum()) == pytest.approx(8)
        assert index[:2].tolist() == [1, 7]
        sums.append(float((weights * values[index]).sum()))
    assert np.mean(sums) == pytest.approx(float(values.sum()), rel=0.02)
