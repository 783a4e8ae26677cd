"""Methods that choose their data, replicas, blocks or hyperparameters follow a second loop.

On the network of tests/support/nets.py (on a small GPT where blocks are left out), in float64:
numpy loops written from the papers. What is drawn at random is drawn again from an equal generator.
"""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.catalog import discover, space
from harness.train.task import Task
from tests.kit.test_surgery import MODEL, TASK
from tests.parity.test_parity import Row
from tests.support import nets
from tests.support.nets import (
    BATCH,
    CLASSES,
    EXAMPLES,
    STEPS,
    Adam,
    forward,
    gradients,
    rate,
    softmax,
)
from workloads.models.gpt import GPT

ADAMW = {"lr": 0.02, "wd": 0.1, "beta2": 0.95}
SGD = {"lr": 0.1, "wd": 0.01, "momentum": 0.9, "nesterov": True}


def data():
    """All training examples: x [N, inputs], y [N]."""
    whole = nets.task().gather(torch.arange(EXAMPLES))
    return whole["inputs"].numpy(), whole["targets"].numpy()


def nats(weights, x, y):
    return -np.log(softmax(forward(weights, x)[0])[np.arange(len(y)), y])


def order():
    """The example numbers of the stream, one by one."""
    stream = nets.task()
    while True:
        yield from stream.next_index().tolist()


def rs2(share, **hp):
    """Rounds over a fresh share of the data (arXiv 2305.18424, without replacement)."""
    (x, y), generator = data(), nets.draws()
    weights, optimizer, left = nets.start(), Adam(beta2=hp["beta2"]), []
    for t in range(STEPS):
        while len(left) < BATCH:
            drawn = torch.randperm(EXAMPLES, generator=generator).tolist()
            left += drawn[: round(share * EXAMPLES)]
        now, left = left[:BATCH], left[BATCH:]
        optimizer.step(weights, gradients(weights, x[now], y[now]), hp["lr"] * rate(t), hp["wd"])
    return weights


def selective_backprop(memory, **hp):
    """Examples are kept with the rank of their loss among the last (arXiv 1910.00762)."""
    (x, y), generator, stream = data(), nets.draws(), nets.task()
    weights, optimizer = nets.start(), Adam(beta2=hp["beta2"])
    seen, waiting = [], []
    for t in range(STEPS):
        while len(waiting) < BATCH:
            index = stream.next_index().numpy()
            losses = nats(weights, x[index], y[index]).astype(np.float32)
            seen = [*seen, *losses][-memory:]
            chance = [sum(other <= own for other in seen) / len(seen) for own in losses]
            coins = torch.rand(len(index), generator=generator).numpy()
            waiting += [i for i, c, p in zip(index, coins, chance) if c < p]
        now, waiting = waiting[:BATCH], waiting[BATCH:]
        optimizer.step(weights, gradients(weights, x[now], y[now]), hp["lr"] * rate(t), hp["wd"])
    return weights


def rho_loss(holdout, **hp):
    """loss − loss of a model of held-out data; a fifth of the steps makes that model."""
    (x, y), generator = data(), nets.draws()
    shuffled = torch.randperm(EXAMPLES, generator=generator).numpy()
    held, rest = np.split(shuffled, [round(holdout * EXAMPLES)])
    weights, optimizer, first = nets.start(), Adam(beta2=hp["beta2"]), STEPS // 5
    for t in range(STEPS):
        if t == first:
            judge, weights, optimizer = weights, nets.start(), Adam(beta2=hp["beta2"])
        if t < first:
            now = held[torch.randint(len(held), (BATCH,), generator=generator).numpy()]
            lr = hp["lr"] * rate(t, first)
        else:
            many = rest[torch.randint(len(rest), (4 * BATCH,), generator=generator).numpy()]
            worth = nats(weights, x[many], y[many]) - nats(judge, x[many], y[many])
            now = many[np.argsort(-worth, kind="stable")[:BATCH]]
            lr = hp["lr"] * rate(t - first, STEPS - first)
        optimizer.step(weights, gradients(weights, x[now], y[now]), lr, hp["wd"])
    return weights


def refined_schedule(window, **hp):
    """η ∝ w·Σ later w, w = 1/‖g‖₁ through a running median (arXiv 2310.07831)."""
    half, stream = STEPS // 2, nets.batches()
    weights, optimizer, norms = nets.start(), Adam(beta2=hp["beta2"]), []
    for t in range(half):
        g = gradients(weights, *next(stream))
        norms.append(sum(np.abs(v).sum() for v in g.values()))
        p = (t + 0.5) / half
        lr = hp["lr"] * (p / 0.05 if p < 0.05 else 1 - (p - 0.05) / 0.95)
        optimizer.step(weights, g, lr, hp["wd"])
    reach = int(window * half) // 2
    padded = [*norms[1 : reach + 1][::-1], *norms, *norms[-reach - 1 : -1][::-1]]
    smooth = [np.median(padded[i : i + 2 * reach + 1]) for i in range(half)]
    factors = [sum(1 / s for s in smooth[t + 1 :]) / smooth[t] for t in range(half)]
    weights, optimizer = nets.start(), Adam(beta2=hp["beta2"])
    for t in range(half):
        lr = hp["lr"] * factors[t] / max(factors)
        optimizer.step(weights, gradients(weights, *next(stream)), lr, hp["wd"])
    return weights


def shares():
    """The stream in quarters of a batch."""
    stream = nets.task()
    while True:
        batch = stream.next_batch(BATCH // 4)
        yield batch["inputs"].numpy(), batch["targets"].numpy()


def mean(sets):
    return {n: sum(w[n] for w in sets) / len(sets) for n in sets[0]}


def local_sgd(lr, wd, momentum, nesterov, every, graph):
    """Four replicas on a ring (arXiv 1805.09767)."""
    replicas, stream = [nets.start() for _ in range(4)], shares()
    buffers = [{n: 0.0 for n in nets.start()} for _ in range(4)]  # noqa: C420 - no shared dict
    for t in range(STEPS):
        for weights, b in zip(replicas, buffers):
            g = gradients(weights, *next(stream))
            for n in weights:
                u = g[n] + wd * weights[n]
                b[n] = momentum * b[n] + u
                weights[n] = weights[n] - lr * rate(t) * (u + momentum * b[n] if nesterov else b[n])
        if (t + 1) % every == 0:
            replicas = [
                mean([replicas[i - 1], replicas[i], replicas[(i + 1) % 4]]) for i in range(4)
            ]
    return mean(replicas)


def monna(lr, momentum, attack):
    """Worker momentum, a liar, the mean of the three nearest models (arXiv 2209.10931)."""
    models, stream = [nets.start() for _ in range(4)], shares()
    buffers = [dict.fromkeys(nets.start(), 0.0) for _ in range(4)]
    for t in range(STEPS):
        before = mean(models)
        for weights, m in zip(models, buffers):
            g = gradients(weights, *next(stream))
            for n in weights:
                m[n] = momentum * m[n] + (1 - momentum) * g[n]
                weights[n] = weights[n] - lr * rate(t) * m[n]
        now = mean(models)
        sent = [*models, {n: now[n] + (before[n] - now[n]) * attack for n in now}]

        def apart(a, b):
            return sum(((a[n] - b[n]) ** 2).sum() for n in a)

        models = [mean(sorted(sent, key=lambda s, own=own: apart(own, s))[:3]) for own in models]
    return mean(models)


def mezo(lr, wd, eps):
    """p ← p − lr·(c·z + wd·p), c the slope along z by two losses (arXiv 2305.17333)."""
    weights, generator = nets.start(), nets.draws()
    for _, (x, y) in zip(range(STEPS), nets.batches()):
        seed = int(torch.randint(2**62, (), generator=generator))
        source = torch.Generator().manual_seed(seed)
        z = {
            n: torch.randn(w.shape, generator=source, dtype=torch.float64).numpy()
            for n, w in weights.items()
        }
        up, down = (
            nats({n: w + s * eps * z[n] for n, w in weights.items()}, x, y).mean() for s in (1, -1)
        )
        slope = (up - down) / (2 * eps)
        weights = {n: w - lr * (slope * z[n] + wd * w) for n, w in weights.items()}
    return weights


def adam_run(weights, optimizer, batch, t, hp, lr, wd, steps):
    x, y = batch
    loss = nats(weights, x, y).mean()
    optimizer.step(weights, gradients(weights, x, y), lr * rate(t, steps), wd)
    return loss


def pbt(turn, spread, **hp):
    """Turns of six; after a round the worst copies the best and varies (arXiv 1711.09846)."""
    generator, stream, members = nets.draws(), nets.batches(), []
    for _ in range(6):
        drawn = spread ** (2 * torch.rand(2, generator=generator) - 1)
        members.append(
            {
                "weights": nets.start(),
                "adam": Adam(beta2=hp["beta2"]),
                "lr": hp["lr"] * float(drawn[0]),
                "wd": hp["wd"] * float(drawn[1]),
                "loss": math.inf,
            }
        )
    best, changed = members[0], 0
    for turns in range(STEPS * 2 // turn):
        m = members[turns % 6]
        losses = [
            adam_run(m["weights"], m["adam"], next(stream), t, hp, m["lr"], m["wd"], 2 * STEPS)
            for t in range(turns * turn, (turns + 1) * turn)
        ]
        m["loss"] = sum(losses) / turn
        ranked = sorted(members[: turns + 1], key=lambda m: m["loss"])
        best = ranked[0]
        if turns % 6 == 5:
            worst, changed = ranked[-1], changed + 1
            coins = (torch.rand(2, generator=generator) < 0.5).tolist()
            worst |= {"weights": dict(best["weights"]), "adam": copy.deepcopy(best["adam"])}
            worst["loss"] = best["loss"]
            worst["lr"] = best["lr"] * (1.2 if coins[0] else 0.8)
            worst["wd"] = best["wd"] * (1.2 if coins[1] else 0.8)
    assert changed
    return best["weights"]


def hyperband(spread, **hp):
    """Brackets of η = 3, R as large as the steps allow (arXiv 1603.06560, Algorithm 1)."""
    generator, stream = nets.draws(), nets.batches()

    def brackets(most):
        """(points, steps so far, steps after) of each rung."""
        for s in (2, 1, 0):
            n, before = math.ceil(3 / (s + 1) * 3**s), 0
            for i in range(s + 1):
                after = most // 3 ** (s - i)
                yield n // 3**i, before, after
                before = after

    budget = 10 * STEPS
    most = max(r for r in range(budget) if sum(n * (b - a) for n, a, b in brackets(r)) <= budget)

    def point():
        drawn = (2 * torch.rand(2, generator=generator) - 1).tolist()
        return {
            "weights": nets.start(),
            "adam": Adam(beta2=hp["beta2"]),
            "lr": hp["lr"] * spread ** drawn[0],
            "wd": hp["wd"] * spread ** drawn[1],
            "at": 0,
        }

    best, points, used = point() | {"loss": math.inf}, [], 0
    for count, before, after in brackets(most):
        if before == 0:
            points = [point() for _ in range(count)]
        else:
            points = sorted(points, key=lambda p: p["loss"])[:count]
        for p in points:
            losses = [
                adam_run(p["weights"], p["adam"], next(stream), t, hp, p["lr"], p["wd"], most)
                for t in range(before, after)
            ]
            used += after - before
            p["loss"] = np.mean(losses[-max(1, (after - before) // 4) :])
            p["at"] = after
            if (-after, p["loss"]) <= (-best["at"], best["loss"]):
                best = copy.deepcopy(p)
    for _ in range(budget - used):
        adam_run(
            best["weights"], best["adam"], next(stream), most - 1, hp, best["lr"], best["wd"], most
        )
    return best["weights"]


def tpsgd(lr, readout_lr, spread):
    """ΔW = −lr·(y − P·y*)xᵀ for every map, P = I and softmax at the readout (arXiv 2208.08503)."""
    weights, generator = nets.start(), nets.draws()
    seed = int(torch.randint(2**62, (), generator=generator))
    for t, (x, y) in zip(range(STEPS), nets.batches()):
        source, label = torch.Generator().manual_seed(seed), np.eye(CLASSES)[y]
        scores, kept = forward(weights, x)
        inputs = [kept[0][0], kept[1][0], kept[2]]
        for i, z in enumerate(inputs):
            name = f"blocks.{i}.linear" if i < 2 else "readout"
            if i < 2:
                width = weights[f"{name}.weight"].shape[0]
                p = torch.randn(CLASSES, width, generator=source).double().numpy() * spread
                out = z @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
                error, step = out - label @ p, lr * rate(t)
            else:
                error, step = softmax(scores) - label, readout_lr * rate(t)
            moved = {
                f"{name}.weight": step * error.T @ z / len(y),
                f"{name}.bias": step * error.mean(0),
            }
            weights |= {n: weights[n] - v for n, v in moved.items()}
    return weights


def lbfgs(lr, pairs, armijo, curved):
    """Dense inverse-Hessian updates of the last pairs, a trial step at a time."""
    weights, stream = nets.start(), nets.batches()
    sizes, shapes = [w.size for w in weights.values()], {n: w.shape for n, w in weights.items()}

    def flat(values):
        return np.concatenate([values[n].ravel() for n in shapes])

    def named(vector):
        parts = np.split(vector, np.cumsum(sizes)[:-1])
        return {n: part.reshape(shapes[n]) for n, part in zip(shapes, parts)}

    kept, tau, eye, refused = [], lr, np.eye(sum(sizes)), 0
    for _ in range(STEPS):
        x, y = next(stream)
        p, g, loss = flat(weights), flat(gradients(weights, x, y)), nats(weights, x, y).mean()
        h = eye / np.sqrt(g @ g)
        if kept:
            h = eye * (kept[-1][0] @ kept[-1][1]) / (kept[-1][1] @ kept[-1][1])
        for s, q in kept:
            turn = eye - np.outer(s, q) / (s @ q)
            h = turn @ h @ turn.T + np.outer(s, s) / (s @ q)
        step = -tau * h @ g
        there = named(p + step)
        q = flat(gradients(there, x, y)) - g
        if nats(there, x, y).mean() <= loss + armijo * (g @ step):
            weights, tau = there, min(lr, 2 * tau)
            if step @ q > curved * (q @ q):
                kept = [*kept[1 - pairs :], (step, q)] if len(kept) >= pairs else [*kept, (step, q)]
        else:
            tau, refused = tau / 2, refused + 1
    assert refused
    return weights


FORMULAS = [
    Row("lbfgs", lbfgs, {"lr": 1.0, "pairs": 5, "armijo": 0.5, "curved": 1e-8}, package="",
        float64=1e-8),
    Row("rs2", rs2, {**ADAMW, "share": 0.4}, package=""),
    Row("selective_backprop", selective_backprop, {**ADAMW, "memory": 256}, package=""),
    Row("rho_loss", rho_loss, {**ADAMW, "holdout": 0.2}, package=""),
    Row("refined_schedule", refined_schedule, {**ADAMW, "window": 0.5}, package=""),
    Row("local_sgd", local_sgd, {**SGD, "every": 3, "graph": "ring"}, package=""),
    Row("monna", monna, {"lr": 0.3, "momentum": 0.9, "attack": 10.0}, package=""),
    Row("mezo", mezo, {"lr": 0.01, "wd": 0.1, "eps": 1e-3}, package="", float64=1e-9),
    Row("pbt", pbt, {**ADAMW, "turn": 5, "spread": 3.0}, package="", label=str(2 * STEPS)),
    Row("hyperband", hyperband, {**ADAMW, "spread": 3.0}, package="", label=str(10 * STEPS)),
    Row("tpsgd", tpsgd, {"lr": 0.05, "readout_lr": 0.5, "spread": 1.0}, package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
def test_owner_equals_its_second_loop(row):
    steps = int(row.label or STEPS)
    submission = nets.submitted(row.submission, nets.task(steps), **row.hp)
    second = row.second(**row.hp)
    assert nets.difference(nets.run(submission, steps), second) <= row.float64


# Blocks that are left out, or come later


def language_task():
    """A GPT of four blocks in float64."""
    torch.manual_seed(0)
    model = GPT(
        SimpleNamespace(**MODEL | {"depth": 4}, activation="gelu", tied=False, init_scale=4.0)
    )
    tokens = (torch.randint(24, (64, 1)) + 5 * torch.arange(9)) % 24
    data = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    return Task(TASK, SimpleNamespace(batch=4), data, model.double(), 0, STEPS)


def adam_steps(model, blocks, optimizer, batch, t, hp):
    """A step of AdamW on a GPT of these of its blocks only, written without `active`."""
    part = copy.copy(model)
    part._modules = dict(model._modules) | {"blocks": nn.ModuleList(blocks)}
    part.active = [True] * len(blocks)
    model.zero_grad()
    logits = part(batch["inputs"])
    F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten()).backward()
    weights = {n: p.detach().numpy() for n, p in model.named_parameters() if p.grad is not None}
    grads = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    optimizer.step(weights, grads, hp["lr"] * rate(t), hp["wd"])
    with torch.no_grad():
        for n, p in model.named_parameters():
            if n in weights:
                p.copy_(torch.from_numpy(weights[n]))


def layer_drop(task, **hp):
    """After a quarter of the steps, a quarter of the blocks is left out, later ones more often."""
    model, optimizer, generator = task.model, Adam(beta2=hp["beta2"]), nets.draws()
    blocks = list(model.blocks)
    for t in range(STEPS):
        left = blocks
        if (t + 0.5) / STEPS >= 0.25:
            out = torch.multinomial(torch.arange(1.0, 5.0), 1, generator=generator).tolist()
            left = [b for i, b in enumerate(blocks) if i not in out]
        adam_steps(model, left, optimizer, task.next_batch(), t, hp)
    return model


def layer_stacking(task, first, second, **hp):
    """One block, then two, then four, the new ones copies of the old (ICML 2019)."""
    model, depth, optimizer = task.model, 1, Adam(beta2=hp["beta2"])
    blocks = list(model.blocks)
    for t in range(STEPS):
        p = (t + 0.5) / STEPS
        wanted = 1 if p < first else 2 if p < second else 4
        while depth < wanted:
            for i in range(depth):
                blocks[i + depth].load_state_dict(blocks[i].state_dict())
            depth, optimizer = 2 * depth, Adam(beta2=hp["beta2"])
        adam_steps(model, blocks[:depth], optimizer, task.next_batch(), t, hp)
    return model


DEPTHS = [
    Row("layer_drop", layer_drop, ADAMW, package=""),
    Row("layer_stacking", layer_stacking, {**ADAMW, "first": 0.3, "second": 0.6}, package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", DEPTHS, ids=str)
def test_blocks_equal_a_second_loop(row):
    task = language_task()
    card = discover.read(discover.find(row.submission))
    hp = space.namespace(space.default(card.literals["SPACE"]) | row.hp)
    algorithm = discover.load(card.plugin).Algorithm(task, hp)
    for task.step in range(STEPS):
        algorithm.step()
    second = row.second(language_task(), **row.hp)
    for a, b in zip(task.model.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=row.float64 * 10)
