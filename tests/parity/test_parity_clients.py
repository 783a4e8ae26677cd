"""Methods of clients, of private gradients and of attacked inputs follow a second loop in float64.

On the network of tests/support/nets.py, whose examples belong to four clients. What is drawn at
random is drawn again from an equal generator.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.seeds import derive
from tests.parity.test_parity import Row
from tests.parity.test_parity_labels import ADAMW, data, nats, order, weighted
from tests.support import nets
from tests.support.nets import (
    BATCH,
    CLASSES,
    EXAMPLES,
    Adam,
    backward,
    forward,
    gradients,
    rate,
    softmax,
)
from tests.support.racing import planned

STEPS = 50
CLIENTS = np.arange(EXAMPLES) % 4
UNEQUAL = np.repeat(np.arange(4), [32, 16, 11, 5])
SETS = np.eye(CLASSES, dtype=bool)[np.arange(EXAMPLES) % CLASSES]
SETS |= np.arange(EXAMPLES)[:, None] % 5 == np.arange(CLASSES)
RATE, DELTA = BATCH / EXAMPLES, 1e-4


def many_task(owners=CLIENTS):
    """Return the task of nets with clients, candidates, and a privacy ledger on request."""
    task = nets.task(STEPS)
    task._workload.clients = lambda data, config: torch.from_numpy(owners)
    plain = task._workload.batch
    task._workload.batch = lambda data, index, config: (
        plain(data, index, config) | {"candidates": torch.from_numpy(SETS)[index]}
    )
    return task


def mean(models, shares=None):
    """Return the mean of models, each counted alike or by its share."""
    shares = np.full(len(models), 1 / len(models)) if shares is None else shares
    return {n: sum(p * w[n] for p, w in zip(shares, models, strict=True)) for n in models[0]}


def local(generator, owners=CLIENTS):
    """Yield (client, x, y) of each client's part of a batch, in turn."""
    x, y = data()
    own = [np.flatnonzero(k == owners) for k in range(4)]
    while True:
        for k, members in enumerate(own):
            drawn = torch.randint(len(members), (BATCH // 4,), generator=generator).numpy()
            yield k, x[members[drawn]], y[members[drawn]]


def zeros():
    return {n: np.zeros_like(w) for n, w in nets.start().items()}


def fedavg(lr, wd, near, server, server_lr=0.03, momentum=0.9, owners=CLIENTS):
    """Rounds of twenty local steps; the server's four rules (arXiv 1602.05629, 2003.00295)."""
    server_model, m = nets.start(), zeros()
    v = {n: np.full_like(w, 1e-6) for n, w in nets.start().items()}
    models, parts = [nets.start() for _ in range(4)], local(nets.draws(), owners)
    shares = np.bincount(owners) / len(owners)
    for t in range(STEPS):
        for _ in range(4):
            k, x, y = next(parts)
            g = gradients(models[k], x, y)
            models[k] = {
                n: w - lr * rate(t, STEPS) * (g[n] + near * (w - server_model[n]) + wd * w)
                for n, w in models[k].items()
            }
        if (t + 1) % 20:
            continue
        change = {n: w - server_model[n] for n, w in mean(models, shares).items()}
        for n, d in change.items():
            if server == "average":
                server_model[n] = server_model[n] + d
            elif server == "momentum":
                m[n] = momentum * m[n] + d
                server_model[n] = server_model[n] + m[n]
            else:
                m[n] = 0.9 * m[n] + 0.1 * d
                if server == "adam":
                    v[n] = 0.99 * v[n] + 0.01 * d**2
                else:
                    v[n] = v[n] - 0.01 * d**2 * np.sign(v[n] - d**2)
                server_model[n] = server_model[n] + server_lr * m[n] / (np.sqrt(v[n]) + 1e-3)
        models = [dict(server_model) for _ in range(4)]
    return server_model


def scaffold(lr, wd):
    """Option II of arXiv 1910.06378: corrections from how far each client went."""
    x0, c, own = nets.start(), zeros(), [zeros() for _ in range(4)]
    models, parts, rates = [nets.start() for _ in range(4)], local(nets.draws()), []
    for t in range(STEPS):
        rates.append(lr * rate(t, STEPS))
        for _ in range(4):
            k, x, y = next(parts)
            g = gradients(models[k], x, y)
            for n, w in models[k].items():
                models[k][n] = w - rates[-1] * (g[n] + wd * w - own[k][n] + c[n])
        if (t + 1) % 20 == 0:
            new = [
                {n: own[k][n] - c[n] + (x0[n] - models[k][n]) / sum(rates) for n in c}
                for k in range(4)
            ]
            c = {n: c[n] + np.mean([new[k][n] - own[k][n] for k in range(4)], axis=0) for n in c}
            own, x0, rates = new, mean(models), []
            models = [dict(x0) for _ in range(4)]
    return x0


def fedhyper(lr, wd, normalised):
    """FedHyper-G: the server's extra rate is a sum of inner products (arXiv 2310.03156)."""
    x0, alpha, before, seen = nets.start(), 0.0, None, []
    models, parts = [nets.start() for _ in range(4)], local(nets.draws())
    for t in range(STEPS):
        for _ in range(4):
            k, x, y = next(parts)
            g = gradients(models[k], x, y)
            models[k] = {n: w - lr * rate(t, STEPS) * (g[n] + wd * w) for n, w in models[k].items()}
        if (t + 1) % 20:
            continue
        way = {n: w - x0[n] for n, w in mean(models).items()}
        now = np.concatenate([v.ravel() for v in way.values()])
        if before is not None:
            scale = np.linalg.norm(before) * np.linalg.norm(now) if normalised else 1.0
            alpha = float(np.clip(alpha + before @ now / scale, -0.8, 4.0))
        x0 = {n: x0[n] + (1 + alpha) * way[n] for n in way}
        before, models = now, [dict(x0) for _ in range(4)]
        seen.append(alpha)
    assert seen[0] == 0
    assert seen[1] not in (-0.8, 0.0, 4.0)
    return x0


def diloco(outer_lr, momentum, **hp):
    """Nesterov's method on the mean change of AdamW runs (arXiv 2311.08105)."""
    x0, b, parts = nets.start(), zeros(), local(nets.draws())
    models, inner = [nets.start() for _ in range(4)], [Adam(beta2=hp["beta2"]) for _ in range(4)]
    for t in range(STEPS):
        for _ in range(4):
            k, x, y = next(parts)
            g = gradients(models[k], x, y)
            inner[k].step(models[k], g, hp["lr"] * rate(t, STEPS), hp["wd"])
        if (t + 1) % 20 == 0:
            new = mean(models)
            for n in x0:
                change = x0[n] - new[n]
                b[n] = momentum * b[n] + change
                x0[n] = x0[n] - outer_lr * (change + momentum * b[n])
            models = [dict(x0) for _ in range(4)]
    return x0


def sgd_step(weights, buffers, g, lr, wd, momentum, nesterov):
    for n in weights:
        u = g[n] + wd * weights[n]
        buffers[n] = momentum * buffers[n] + u
        weights[n] = weights[n] - lr * (u + momentum * buffers[n] if nesterov else buffers[n])


def power_sgd(lr, wd, momentum, nesterov):
    """Algorithm 1 of arXiv 1905.13727, each client's P and Q formed and then averaged."""
    generator, rank = nets.draws(), 2
    weights, buffers = nets.start(), zeros()
    errors, q = [zeros() for _ in range(4)], {}
    for n, w in weights.items():
        if w.ndim == 2 and rank * sum(w.shape) < w.size:
            shape = (w.shape[1], rank)
            q[n] = torch.randn(shape, generator=generator, dtype=torch.float64).numpy()
    parts, compressed = local(generator), len(q)
    assert compressed
    for t in range(STEPS):
        d = [gradients(weights, *next(parts)[1:]) for _ in range(4)]
        d = [{n: g[n] + e[n] for n in g} for g, e in zip(d, errors)]
        arrived = mean(d)
        for n in q:
            p = np.linalg.qr(sum(own[n] @ q[n] for own in d) / 4)[0]
            q[n] = sum(own[n].T @ p for own in d) / 4
            arrived[n] = p @ q[n].T
        errors = [{n: own[n] - arrived[n] for n in own} for own in d]
        sgd_step(weights, buffers, arrived, lr * rate(t, STEPS), wd, momentum, nesterov)
    return weights


def one_bit_adam(lr, wd, beta2, floor):
    """Algorithm 1 of arXiv 2102.02888: variance frozen after a fifth, momenta sent as signs."""
    weights, parts, optimizer = nets.start(), local(nets.draws()), Adam(beta2=beta2)
    errors = [zeros() for _ in range(5)]

    def sent(values, error):
        codes = {}
        for n, value in values.items():
            live = optimizer.v[n] > 0
            whole = np.where(live, value + error[n], 0.0)
            size = np.sqrt((whole**2).sum() / whole.size)
            codes[n] = np.where(live, np.where(whole < 0, -size, size), 0.0)
            error[n] = whole - codes[n]
        return codes

    for t in range(STEPS):
        g = [gradients(weights, *next(parts)[1:]) for _ in range(4)]
        if t + 1 <= STEPS // 5:
            optimizer.step(weights, mean(g), lr * rate(t, STEPS), wd)
            frozen = {n: np.maximum(v, floor * v.mean()) for n, v in optimizer.v.items()}
            continue
        own = [{n: 0.9 * optimizer.m[n] + 0.1 * one[n] for n in one} for one in g]
        arrived = mean([sent(values, error) for values, error in zip(own, errors)])
        optimizer.m = sent(arrived, errors[4])
        for n, w in weights.items():
            u = optimizer.m[n] / (np.sqrt(frozen[n]) + 1e-8)
            weights[n] = w * (1 - lr * rate(t, STEPS) * wd) - lr * rate(t, STEPS) * u
    return weights


def ef21_clients(lr, wd, eta):
    """EF21-SGDM of arXiv 2305.15155: each client sends a 64th of its change, chosen by size."""
    weights, parts, sizes = nets.start(), local(nets.draws()), {}
    count = sum(w.size for w in weights.values())
    v, g = np.zeros((4, count)), np.zeros((4, count))
    for t in range(STEPS):
        for _ in range(4):
            k, x, y = next(parts)
            own = gradients(weights, x, y)
            flat = np.concatenate([own[n].ravel() for n in weights])
            v[k] = flat if t == 0 else (1 - eta) * v[k] + eta * flat
            change = v[k] - g[k]
            sent = np.argsort(-np.abs(change))[: count // 64]
            g[k, sent] += change[sent]
        mean_g, at = g.mean(axis=0), 0
        for n, w in weights.items():
            step = mean_g[at : at + w.size].reshape(w.shape)
            weights[n], at = w - lr * rate(t, STEPS) * (step + wd * w), at + w.size
        sizes[t] = np.count_nonzero(g)
    assert sizes[0] == 4 * (count // 64)
    return weights


def alim(target, noise, first, last, waiting, **hp):
    """Targets of partial labels, example by example (arXiv 2301.12077, 2002.08053, 2007.08929)."""
    (x, _), stream = data(), order()
    weights, optimizer = nets.start(), Adam(beta2=hp["beta2"])
    w = SETS / SETS.sum(1, keepdims=True)
    ratio, outside, before = np.ones(EXAMPLES), 0.0, 0
    for t in range(STEPS):
        now, epoch, progress = next(stream), t * BATCH // EXAMPLES, (t + 0.5) / STEPS
        scores, kept = forward(weights, x[now])
        p, inside = softmax(scores), SETS[now]
        if target == "union":
            d = p - p * inside / (p * inside).sum(1, keepdims=True)
        else:
            d = p - w[now]
        if epoch > before:
            before = epoch
            if noise and progress > 0.08:
                outside = min(1.0, np.quantile(ratio, noise))
        share = first + (last - first) * progress if epoch >= waiting else 1.0
        for i, q, s in zip(now, p, inside):
            ratio[i] = q[s].max() / (q[~s].max(initial=0.0) + 1e-9)
            v = q * np.where(s, 1.0, outside)
            v = np.eye(CLASSES)[v.argmax()] if target == "one_hot" else v / v.sum()
            w[i] = share * w[i] + (1 - share) * v
        optimizer.step(
            weights, backward(weights, kept, d / BATCH), hp["lr"] * rate(t, STEPS), hp["wd"]
        )
    return weights


SERVED = {"lr": 0.1, "wd": 1e-3, "server_lr": 0.03, "momentum": 0.9}
CLIENT_ROWS = [
    Row("fedavg", fedavg, {**SERVED, "near": 0.0, "server": "average"}, package="",
        label="average"),
    Row("fedavg", fedavg, {**SERVED, "near": 0.5, "server": "momentum"}, package="",
        label="momentum"),
    Row("fedavg", fedavg, {**SERVED, "near": 0.0, "server": "adam"}, package="", label="adam"),
    Row("fedavg", fedavg, {**SERVED, "near": 0.0, "server": "yogi"}, package="", label="yogi"),
    Row("scaffold", scaffold, {"lr": 0.1, "wd": 1e-3}, package=""),
    Row("fedhyper", fedhyper, {"lr": 0.1, "wd": 1e-3, "normalised": True}, package="",
        label="normalised"),
    Row("fedhyper", fedhyper, {"lr": 0.1, "wd": 1e-3, "normalised": False}, package="",
        label="plain"),
    Row("diloco", diloco, {**ADAMW, "outer_lr": 0.7, "momentum": 0.9}, package=""),
    Row("power_sgd", power_sgd, {"lr": 0.1, "wd": 0.01, "momentum": 0.9, "nesterov": True},
        package=""),
    Row("one_bit_adam", one_bit_adam, {**ADAMW, "floor": 0.05}, package=""),
    Row("ef21_clients", ef21_clients, {"lr": 0.1, "wd": 1e-3, "eta": 1.0}, package=""),
    Row("ef21_clients", ef21_clients, {"lr": 0.1, "wd": 1e-3, "eta": 0.1}, package="",
        label="momentum"),
    Row("alim", alim, {**ADAMW, "target": "one_hot", "noise": 0.2, "first": 0.95, "last": 0.8,
        "waiting": 1}, package="", float64=1e-6),
    Row("alim", alim, {**ADAMW, "target": "scaled", "noise": 0.0, "first": 0.0, "last": 0.0,
        "waiting": 0}, package="", label="proden", float64=1e-6),
    Row("alim", alim, {**ADAMW, "target": "union", "noise": 0.0, "first": 0.0, "last": 0.0,
        "waiting": 0}, package="", label="cc"),
]  # fmt: skip


@pytest.mark.parametrize("row", CLIENT_ROWS, ids=str)
def test_client_method_equals_its_second_loop(row):
    submission = nets.submitted(row.submission, many_task(), **row.hp)
    assert nets.difference(nets.run(submission, STEPS), row.second(**row.hp)) <= max(
        row.float64, 1e-9
    )


# What each variant says of itself, by μ and the server's rule.
VARIANTS = {
    "fedavg_plain": (0.0, "average"),
    "fedprox": (0.1, "average"),
    "fedavgm": (0.0, "momentum"),
    "fedadam": (0.0, "adam"),
    "fedyogi": (0.0, "yogi"),
}


@pytest.mark.parametrize("name", ["fedavg_plain", "fedprox", "fedavgm", "fedadam", "fedyogi"])
def test_fedavg_variant_of_unequal_clients_equals_its_formula(name):
    """A client counts by its examples; a variant fixes μ and the server's rule."""
    near, server = VARIANTS[name]
    submission = nets.submitted(name, many_task(UNEQUAL), lr=0.1, wd=1e-3)
    second = fedavg(0.1, 1e-3, near, server, owners=UNEQUAL)
    assert nets.difference(nets.run(submission, STEPS), second) <= 1e-9


def test_fedavg_of_one_step_and_equal_clients_is_a_large_batch(monkeypatch):
    """With a round after every step the average of the clients is SGD on all four parts."""
    import submissions.distributed.fedavg as module

    monkeypatch.setattr(module, "EVERY", 1)
    submission = nets.submitted("fedavg", many_task(), lr=0.1, wd=0.0, server="average", near=0.0)
    weights, parts = nets.start(), local(nets.draws())
    for t in range(STEPS):
        x, y = (np.concatenate(a) for a in zip(*(next(parts)[1:] for _ in range(4))))
        g = gradients(weights, x, y)
        weights = {n: w - 0.1 * rate(t, STEPS) * g[n] for n, w in weights.items()}
    assert nets.difference(nets.run(submission, STEPS), weights) <= 1e-9


@pytest.mark.parametrize(
    "name, counts",
    [
        ("fedavg", {"exchange": 2}),
        ("fedhyper", {"exchange": 2}),
        ("scaffold", {"exchange@batch=2": 2}),
        ("ef21_clients", {"exchange@batch=1/32": 40}),
    ],
)
def test_a_method_of_clients_pays_for_what_it_sends_alone(name, counts, tmp_path):
    """Two rounds of twenty steps, on the network whose batches say whose they are."""
    task = many_task()
    plain = task._workload.batch
    task._workload.batch = lambda data, index, config: (
        plain(data, index, config) | {"client": torch.from_numpy(CLIENTS)[index]}
    )
    nets.run(nets.submitted(name, task), 40)
    assert dict(task.meter.counts) == counts | {"forward_backward@batch=1/4": 160}
    declared = planned("fed", name, tmp_path).passes
    assert {kind: 40 * n for kind, n in declared.items()} == dict(task.meter.counts)


# Private gradients


def private_task():
    """Return the task of nets as a private workload."""
    from harness.train.ledger import Ledger

    task = nets.task(STEPS)
    task._config.private = SimpleNamespace(rate=RATE, delta=DELTA)
    task.ledger = Ledger(0)
    return task


def noisy_gradients(clip, noise, normalise=None):
    """Yield functions of the weights: a noisy mean over one Poisson sample, one by one."""
    x, y = data()
    for call in range(STEPS):
        chance = torch.rand(
            EXAMPLES, generator=torch.Generator().manual_seed(derive(0, "private sample", call))
        ).numpy()
        generator = torch.Generator().manual_seed(derive(0, "private noise", call))
        members = np.flatnonzero(chance < np.float32(RATE))

        def mean_at(weights, members=members, generator=generator):
            total = zeros()
            for i in members:
                g = gradients(weights, x[i : i + 1], y[i : i + 1])
                norm = np.sqrt(sum((v**2).sum() for v in g.values()))
                factor = clip / (norm + normalise) if normalise else min(1, clip / (norm + 1e-6))
                total = {n: total[n] + factor * g[n] for n in g}
            for n, w in weights.items():
                drawn = torch.randn(w.shape, generator=generator, dtype=torch.float64).numpy()
                total[n] = (total[n] + clip * noise * drawn) / (RATE * EXAMPLES)
            return total

        yield mean_at


def private_sgd(lr, wd, momentum, nesterov, clip, automatic, noise):
    weights, buffers = nets.start(), zeros()
    for t, mean_at in enumerate(noisy_gradients(clip, noise, 0.01 if automatic else None)):
        g = mean_at(weights)
        sgd_step(weights, buffers, g, lr * rate(t, STEPS), wd, momentum, nesterov)
    return weights


def dp_adamw(clip, noise, **hp):
    weights, optimizer = nets.start(), Adam(beta2=hp["beta2"])
    for t, mean_at in enumerate(noisy_gradients(clip, noise)):
        optimizer.step(weights, mean_at(weights), hp["lr"] * rate(t, STEPS), hp["wd"])
    return weights


SGD = {"lr": 0.1, "wd": 0.01, "momentum": 0.9, "nesterov": True}
PRIVATE = [
    Row("private_sgd", private_sgd, {**SGD, "clip": 0.5, "automatic": False}, package=""),
    Row("private_sgd", private_sgd, {**SGD, "clip": 0.5, "automatic": True}, package="",
        label="automatic"),
    Row("dp_adamw", dp_adamw, {**ADAMW, "clip": 0.5}, package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", PRIVATE, ids=str)
def test_private_method_equals_its_second_loop(row):
    submission = nets.submitted(row.submission, private_task(), **row.hp, epsilon=5.0)
    noise = submission.algorithm.noise
    assert 0.5 < noise < 5
    second = row.second(**row.hp, noise=noise)
    assert nets.difference(nets.run(submission, STEPS), second) <= 1e-9
    assert submission.task.ledger.report() == {"exposed": False, "spent": {repr(noise): STEPS}}


def test_dp_ftrl_equals_its_second_loop():
    """Prefix sums from dyadic intervals, whose noise is drawn when an interval is complete."""
    clip, momentum, lr = 0.5, 0.9, 0.05
    submission = nets.submitted("dp_ftrl", private_task(), clip=clip, momentum=momentum, lr=lr,
                                epsilon=5.0)  # fmt: skip
    noise, leaves = submission.algorithm.noise, EXAMPLES // BATCH
    x, y = data()
    weights, start, v, done = nets.start(), nets.start(), zeros(), zeros()
    for t in range(STEPS):
        epoch, at = divmod(t, leaves)
        if at == 0:
            generator = torch.Generator().manual_seed(derive(0, "private epoch", epoch))
            parts = np.split(torch.randperm(EXAMPLES, generator=generator).numpy(), leaves)
            clean, nodes = zeros(), {}
        for i in parts[at]:
            g = gradients(weights, x[i : i + 1], y[i : i + 1])
            norm = np.sqrt(sum((a**2).sum() for a in g.values()))
            clean = {n: clean[n] + min(1, clip / (norm + 1e-6)) * g[n] for n in g}
        generator = torch.Generator().manual_seed(derive(0, "private node", t + 1))
        length = next(2**k for k in range(8, -1, -1) if (at + 1) % 2**k == 0)
        nodes[at + 1 - length, at + 1] = {
            n: clip * noise * torch.randn(w.shape, generator=generator, dtype=torch.float64).numpy()
            for n, w in weights.items()
        }
        total, end = {n: done[n] + clean[n] for n in clean}, at + 1
        while end:
            low = max(low for low, high in nodes if high == end and (end - low) == (end & -end))
            total = {n: total[n] + nodes[low, end][n] for n in total}
            end = low
        if at + 1 == leaves:
            done = total
        v = {n: momentum * v[n] + total[n] / (RATE * EXAMPLES) for n in v}
        weights = {n: start[n] - lr * v[n] for n in v}
    assert nets.difference(nets.run(submission, STEPS), weights) <= 1e-9
    ledger = submission.task.ledger.report()
    assert ledger == {"exposed": False, "spent": {}, "trees": {repr(noise): STEPS}}


# Attacked inputs


def boxed_task():
    """Return the task of nets with inputs in [0, 1]."""
    task = nets.task(STEPS)
    task._data["inputs"] = task._data["inputs"].sigmoid()
    return task


def input_gradient(weights, x, d):
    """Return ∂L/∂x by central differences along each input; d are ∂L/∂scores, [B, C]."""
    slopes = np.zeros_like(x)
    for j in range(x.shape[1]):
        e = np.zeros(x.shape[1])
        e[j] = 1e-6
        ahead, back = (forward(weights, x + s * e)[0] for s in (1, -1))
        slopes[:, j] = (d * (ahead - back)).sum(1) / 2e-6
    return slopes


def uphill(weights, x, moved, slope_of, length, radius):
    d = slope_of(softmax(forward(weights, moved)[0]))
    further = moved + length * np.sign(input_gradient(weights, moved, d))
    return np.clip(further, np.maximum(x - radius, 0), np.minimum(x + radius, 1))


def attacked(steps):
    def loop(radius, stride, **hp):
        generator, stream = nets.draws(), boxed_task()
        weights, optimizer = nets.start(), Adam(beta2=hp["beta2"])
        for t in range(STEPS):
            batch = stream.next_batch()
            x, y = batch["inputs"].numpy(), batch["targets"].numpy()
            drawn = torch.rand(x.shape, generator=generator, dtype=torch.float64).numpy()
            moved = np.clip(x + radius * (2 * drawn - 1), 0, 1)
            for _ in range(steps):
                hot = np.eye(CLASSES)[y]
                moved = uphill(
                    weights, x, moved, lambda p, hot=hot: p - hot, radius * stride, radius
                )
            optimizer.step(
                weights, gradients(weights, moved, y), hp["lr"] * rate(t, STEPS), hp["wd"]
            )
        return weights

    return loop


def trades(radius, stride, beta, **hp):
    generator, stream = nets.draws(), boxed_task()
    weights, optimizer = nets.start(), Adam(beta2=hp["beta2"])
    for t in range(STEPS):
        batch = stream.next_batch()
        x, y = batch["inputs"].numpy(), batch["targets"].numpy()
        drawn = torch.randn(x.shape, generator=generator, dtype=torch.float64).numpy()
        moved, here = np.clip(x + 1e-3 * drawn, 0, 1), softmax(forward(weights, x)[0])
        for _ in range(3):
            moved = uphill(weights, x, moved, lambda q, p=here: q - p, radius * stride, radius)
        p, kept = here, forward(weights, x)[1]
        scores, far = forward(weights, moved)
        q = softmax(scores)
        gap = np.log(p) - np.log(q)
        # ∂KL/∂(scores of p) = p·(gap − Σ p·gap), ∂KL/∂(scores of q) = q − p
        own = p - np.eye(CLASSES)[y] + beta * p * (gap - (p * gap).sum(1, keepdims=True))
        a = backward(weights, kept, own / BATCH)
        b = backward(weights, far, beta * (q - p) / BATCH)
        total = {n: a[n] + b[n] for n in a}
        optimizer.step(weights, total, hp["lr"] * rate(t, STEPS), hp["wd"])
    return weights


ATTACKS = [
    Row("pgd", attacked(3), {**ADAMW, "radius": 0.1, "stride": 0.6}, package=""),
    Row("fgsm_rs", attacked(1), {**ADAMW, "radius": 0.1, "stride": 1.25}, package=""),
    Row("trades", trades, {**ADAMW, "radius": 0.1, "stride": 0.6, "beta": 6.0}, package=""),
]


@pytest.mark.parametrize("row", ATTACKS, ids=str)
def test_attack_equals_its_second_loop(row):
    submission = nets.submitted(row.submission, boxed_task(), **row.hp)
    assert nets.difference(nets.run(submission, STEPS), row.second(**row.hp)) <= 1e-9


@pytest.mark.parametrize("name", ["pgd", "fgsm_rs", "trades"])
def test_an_attack_without_a_box_is_plain_training(name):
    """With radius 0 (and no divergence, which is then 0) the path is AdamW's."""
    submission = nets.submitted(name, boxed_task(), **ADAMW, radius=0.0)
    plain = nets.submitted("adamw", boxed_task(), **ADAMW)
    assert nets.difference(nets.run(submission, STEPS), nets.run(plain, STEPS)) <= 1e-9


def test_losses_of_the_second_loops_are_those_of_the_workload():
    x, y = data()
    ours = nets.task().losses(nets.task().gather(torch.arange(EXAMPLES))).numpy()
    assert np.allclose(nats(nets.start(), x, y), ours)
    whole = weighted(nets.start(), x, y, np.full(EXAMPLES, 1 / EXAMPLES))
    assert nets.difference(whole, gradients(nets.start(), x, y)) < 1e-12
