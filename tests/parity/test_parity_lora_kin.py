"""LoRA's relatives follow a second implementation of their rule, step by step.

On the network of tests/support/nets.py, in float64: PEERS of the package peft, and numpy loops
written from the papers' rules, which need singular vectors only up to their common sign.
"""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch

from submissions.peft import ist as ist_of
from submissions.peft import wta_crs as wta
from tests.parity.test_parity import Row
from tests.parity.test_parity_peft import adapted, array, modules
from tests.parity.test_parity_sparse import block_inputs, calibration, grid, nearest
from tests.support import nets
from tests.support.nets import HEAD, HIDDEN, STEPS, Adam, gradients, rate

BASE = {"base_lr": 0.02, "base_wd": 0.1, "head_lr": 0.01}
OWN = {"lr": 0.02, "wd": 0.1, "beta2": 0.95, "head_lr": 0.01}


# Peers


def peft_run(submission, optimizer, **config):
    """Return dense weights after training peft's adapters and the readout.

    Args:
        optimizer: (peft's model, its head) -> (optimizer, [peak learning rate of each group]).
    """
    peft = pytest.importorskip("peft", reason="the peer peft is not installed")
    model = nets.task().model
    if own_start := "init_lora_weights" in config:
        model = model.float()  # which peft does not decompose in float64
    targets = [name.removesuffix(".weight") for name in HIDDEN]
    settings = peft.LoraConfig(target_modules=targets, **config)
    made = peft.inject_adapter_in_model(settings, model).double()
    for name, ours in modules(submission).items():
        theirs = made.get_submodule(name.removesuffix(".weight"))
        if not own_start:
            theirs.lora_A["default"].weight.data.copy_(ours.A)
            theirs.lora_B["default"].weight.data.copy_(ours.B)
    head = list(made.readout.parameters())
    optimizer, rates = optimizer(made, head)
    for p in head:
        p.requires_grad_(True)
    stream = nets.task()
    for t in range(STEPS):
        for group, lr in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = lr * rate(t)
        optimizer.zero_grad()
        nets.WORKLOAD.loss(made, stream.next_batch()).backward()
        optimizer.step()
    dense = {}
    for name in nets.start():
        module = made.get_submodule(name.rpartition(".")[0])
        if name in HIDDEN:
            module.merge()
        dense[name] = array(getattr(getattr(module, "base_layer", module), name.split(".")[-1]))
    return dense


def alike(made, head):
    own = [p for p in made.parameters() if p.requires_grad and all(p is not q for q in head)]
    groups = [{"params": own}, {"params": head}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.1), [0.02, 0.01]


def apart(made, head):
    from peft.optimizers import create_loraplus_optimizer

    optimizer = create_loraplus_optimizer(
        made, torch.optim.AdamW, lr=0.02, loraplus_lr_ratio=4.0, loraplus_weight_decay=0.1,
        betas=(0.9, 0.95),
    )  # fmt: skip
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.add_param_group({"params": head, "weight_decay": 0.1})
    return optimizer, [*rates, 0.01]


PEERS = [
    Row("olora", partial(peft_run, optimizer=alike, r=3, lora_alpha=6.0,
        init_lora_weights="olora"), {**BASE, "rank": 3, "alpha": 6.0}, "peft", float64=1e-5),
    Row("lora_plus", partial(peft_run, optimizer=apart, r=3, lora_alpha=6.0),
        {**OWN, "rank": 3, "alpha": 6.0, "ratio": 4.0}, "peft"),
]  # fmt: skip


@pytest.mark.parametrize("row", PEERS, ids=str)
def test_a_relative_of_lora_equals_its_peer(row):
    submission = nets.submitted(row.submission, **row.hp)
    second = row.second(submission)
    assert nets.difference(nets.run(submission), second) <= row.float64


# Formulas: a function of the submission (for what it drew) and hyperparameters to dense weights.


def pair(parts, scale, **hp):
    """AdamW on the factors of rest + s·BA; `parts`: {matrix: (rest, B, A)}."""

    def dense(name, p):
        return parts[name][0] + scale * p["B"] @ p["A"]

    def pull(name, p, g):
        return {"A": scale * p["B"].T @ g, "B": scale * g @ p["A"].T}

    return adapted({n: {"B": b, "A": a} for n, (_, b, a) in parts.items()}, dense, pull, **hp)


def corda(submission, rank, alpha, keep, examples, **hp):
    """The components of W·C, C the damped covariance of the inputs (arXiv 2406.05223)."""
    weights, scale, parts = nets.start(), alpha / rank, {}
    for name, x in block_inputs(weights, calibration(examples)).items():
        c = x.T @ x / len(x)
        c += 0.01 * np.trace(c) / len(c) * np.eye(len(c))
        u, s, v = np.linalg.svd(weights[name] @ c, full_matrices=False)
        at = np.argsort(s)[:rank] if keep == "knowledge" else np.argsort(-s)[:rank]
        b = u[:, at] * np.sqrt(s[at] / scale)
        a = np.sqrt(s[at] / scale)[:, None] * (v[at] @ np.linalg.inv(c))
        parts[name] = weights[name] - scale * b @ a, b, a
    return pair(parts, scale, **hp)


def eva(submission, rank, alpha, spread, examples, **hp):
    """The inputs' directions, the best of all matrices together (arXiv 2410.07170)."""
    weights, found = nets.start(), []
    for name, x in block_inputs(weights, calibration(examples)).items():
        values, vectors = np.linalg.eigh(x.T @ x)
        shares = values[::-1] / values.sum()
        found += [(shares[j], name, vectors[:, -1 - j]) for j in range(int(spread * rank))]
    best = sorted(found, key=lambda f: -f[0])[: rank * len(HIDDEN)]
    rows = {n: [v for _, name, v in best if name == n] for n in HIDDEN}
    assert len({len(v) for v in rows.values()}) > 1
    parts = {n: (weights[n], np.zeros((len(weights[n]), len(v))), np.array(v))
             for n, v in rows.items()}  # fmt: skip
    return pair(parts, alpha / rank, **hp)


def lora_ga(submission, rank, alpha, gamma, batches, **hp):
    """Singular vectors of the first gradients (arXiv 2407.05000)."""
    weights, stream, scale = nets.start(), nets.batches(), alpha / math.sqrt(rank)
    total, parts = dict.fromkeys(HIDDEN, 0.0), {}
    for _ in range(batches):
        g = gradients(weights, *next(stream))
        total = {n: total[n] + g[n] for n in HIDDEN}
    for name in HIDDEN:
        u, _, v = np.linalg.svd(total[name])
        c = len(u) ** 0.25 / math.sqrt(gamma)
        b, a = c * u[:, rank : 2 * rank], c * v[:rank]
        # Singular vectors of two different pairs have signs of their own: take over ours.
        drawn = modules(submission)[name]
        b = b * np.sign((b * array(drawn.B)).sum(0))
        a = a * np.sign((a * array(drawn.A)).sum(1, keepdims=True))
        parts[name] = weights[name] - scale * b @ a, b, a
    kept = nets.batches
    try:
        nets.batches = lambda: stream
        return pair(parts, scale, **hp)
    finally:
        nets.batches = kept


def loftq(submission, rank, alpha, bits, rounds, **hp):
    """Rounding and its best correction in turn (arXiv 2310.08659, Algorithm 1)."""
    weights, scale, parts = nets.start(), alpha / rank, {}
    for name in HIDDEN:
        w, low = weights[name], 0.0
        for _ in range(rounds):
            points = grid(w - low, bits)
            q = np.stack([nearest(points, c) for c in (w - low).T], axis=1)
            u, s, v = np.linalg.svd(w - q, full_matrices=False)
            low = (u[:, :rank] * s[:rank]) @ v[:rank]
        root = np.sqrt(s[:rank] / scale)
        parts[name] = q, u[:, :rank] * root, root[:, None] * v[:rank]
    return pair(parts, scale, **hp)


def lora_fa(submission, rank, alpha, lr, wd, beta2, head_lr):
    """A frozen; B follows what s·BA can do of the gradient (arXiv 2308.03303)."""
    first, s = nets.start(), alpha / rank
    drawn = {name: array(m.A) for name, m in modules(submission).items()}

    def dense(name, p):
        return first[name] + s * p["B"] @ drawn[name]

    def pull(name, p, g):
        a = drawn[name]
        inverse = np.linalg.inv(a @ a.T + 1e-8 * np.eye(rank))
        return {"B": (s * g @ a.T) @ inverse / s**2}

    theta = {n: {"B": np.zeros((len(first[n]), rank))} for n in HIDDEN}
    return adapted(theta, dense, pull, base_lr=lr, base_wd=wd, head_lr=head_lr)


def lora_pro(submission, rank, alpha, lr, wd, beta2, head_lr):
    """Adam in the space of W, its direction projected to A and B (arXiv 2407.18242)."""
    weights, first, s = nets.start(), nets.start(), alpha / rank
    own = {n: [array(m.A), array(m.B)] for n, m in modules(submission).items()}
    heads, dense, eye = Adam(beta2=beta2), Adam(beta2=beta2), 1e-8 * np.eye(rank)

    def projected(name, a, b):
        left, right = own[name]
        gram_a, gram_b = left @ left.T + eye, right.T @ right + eye
        inside = np.eye(len(right)) - right @ np.linalg.inv(gram_b) @ right.T
        low = np.linalg.inv(gram_b) @ a / s**2
        side = inside @ b @ np.linalg.inv(gram_a) / s**2
        x = scipy.linalg.solve_sylvester(gram_b, gram_a, -low @ left.T)
        return low + x @ left, side - right @ x

    for t, batch in zip(range(STEPS), nets.batches()):
        g = gradients(weights, *batch)
        heads.step(weights, {n: g[n] for n in HEAD}, head_lr * rate(t), wd)
        whole = {}
        for n, (a, b) in own.items():
            low, side = projected(n, s * b.T @ g[n], s * g[n] @ a.T)
            whole[n] = s * b @ low + s * side @ a
            if t > 2:  # the nearest to G in the tangent space: what is left is orthogonal to it
                rest = g[n] - whole[n]
                assert np.abs(b.T @ rest).max() + np.abs(rest @ a.T).max() < 1e-6
        zero = {n: np.zeros_like(first[n]) for n in HIDDEN}
        dense.step(zero, whole, 1.0)
        for n in HIDDEN:
            u = -zero[n]
            a, b = own[n]
            low, side = projected(n, s * b.T @ u, s * u @ a.T)
            keep = 1 - lr * rate(t) * wd
            own[n] = [keep * a - lr * rate(t) * low, keep * b - lr * rate(t) * side]
        weights |= {n: first[n] + s * b @ a for n, (a, b) in own.items()}
    return weights


def increlora(submission, rank, alpha, gamma, smooth, settle, period, top, lr, wd, beta2, head_lr):
    """Ranks granted to the matrices with the best scores (arXiv 2308.12043)."""
    weights, first, optimizer = nets.start(), nets.start(), Adam(beta2=beta2)
    room, more, own = 2 * rank, max(1, rank // 2), {}
    granted, mean, spread = (dict.fromkeys(HIDDEN, v) for v in (1, 0.0, 0.0))
    for n, m in modules(submission).items():
        own |= {(n, "P"): array(m.P), (n, "E"): np.zeros((room, 1)), (n, "Q"): array(m.Q)}
        own[n, "E"][1 : 1 + more] = 1e-5

    def change(n):
        return alpha / granted[n] * own[n, "P"] @ (own[n, "E"] * own[n, "Q"])

    for t, batch in zip(range(STEPS), nets.batches()):
        weights |= {n: first[n] + change(n) for n in HIDDEN}
        g, grads = gradients(weights, *batch), {}
        for n in HIDDEN:
            p, e, q, c = *(own[n, k] for k in "PEQ"), alpha / granted[n] * g[n]
            grads[n, "P"], grads[n, "Q"] = c @ q.T * e[:, 0], e * (p.T @ c)
            grads[n, "E"] = np.einsum("or,oi,ri->r", p, c, q)[:, None]
            grads[n, "E"][granted[n] :] = 0.0
            live = granted[n] + more
            for k, a in (("P", p.T[:live]), ("Q", q[:live])):
                gap = a @ a.T - np.eye(len(a))
                pull = np.zeros_like(q if k == "Q" else p.T)
                pull[:live] = gamma / (2 * len(HIDDEN)) * 2 * gap @ a / np.linalg.norm(gap)
                grads[n, k] = grads[n, k] + (pull.T if k == "P" else pull)
            s = np.abs(change(n) * g[n]).sum() / math.sqrt(g[n].size)
            mean[n] = smooth * mean[n] + (1 - smooth) * s
            spread[n] = smooth * spread[n] + (1 - smooth) * abs(s - mean[n])
        optimizer.step(own, grads, lr * rate(t), wd)
        optimizer.t -= 1
        optimizer.step(weights, {n: g[n] for n in HEAD}, head_lr * rate(t), wd)
        begin, length = int(settle * STEPS), int(period * STEPS)
        if t >= begin and (t - begin) % length == length - 1:
            order = sorted(HIDDEN, key=lambda n: -mean[n] * spread[n])
            for n in [n for n in order if granted[n] < room][:top]:
                left = rank * len(HIDDEN) - sum(granted.values())
                granted[n] += min(more, left, room - granted[n])
            for n in HIDDEN:
                own[n, "E"][granted[n] : granted[n] + more] = 1e-5
    assert sum(granted.values()) == rank * len(HIDDEN)
    for n in HIDDEN:
        own[n, "E"][granted[n] :] = 0.0
    return weights | {n: first[n] + change(n) for n in HIDDEN}


def loss(weights, x, y):
    scores, _ = nets.forward(weights, x)
    return -np.log(nets.softmax(scores)[np.arange(len(y)), y]).mean()


def ist(submission, rank, alpha, share_trained, damped, period, rise, lr, wd, beta2, head_lr):
    """Blocks that train are drawn by what damping them costs (arXiv 2410.11772)."""
    weights, first, optimizer, s = nets.start(), nets.start(), Adam(beta2=beta2), alpha / rank
    generator, stream, worth = nets.draws(), nets.batches(), np.zeros(2)
    own = {}
    for n, m in modules(submission).items():
        own |= {(n, "A"): array(m.A), (n, "B"): array(m.B)}

    def drawn(sign):
        p = torch.from_numpy(1 / (1 + np.exp(-sign * worth)))
        return int(torch.multinomial(p, 1, generator=generator))

    def dense(scales):
        return {n: first[n] + k * s * own[n, "B"] @ own[n, "A"] for n, k in zip(HIDDEN, scales)}

    for t in range(STEPS):
        if t and t % period == 0:
            batch, order = next(stream), [drawn(1)]
            while len(order) < 2:
                order += [i for i in [drawn(1)] if i not in order]
            hurt = [dense([damped if i == k else 1.0 for k in range(2)]) for i in order]
            values = np.exp([-loss(weights | h, *batch) for h in hurt])
            for i, value in zip(order, values):
                p = 1 / (1 + math.exp(-worth[i]))
                worth[i] += rise * (value - values.mean()) * p * (1 - p)
        n = HIDDEN[drawn(-1)]
        g = gradients(weights, *next(stream))
        grads = {(n, "A"): s * own[n, "B"].T @ g[n], (n, "B"): s * g[n] @ own[n, "A"].T}
        optimizer.step(own, grads, lr * rate(t), wd)
        optimizer.t -= 1
        optimizer.step(weights, {k: g[k] for k in HEAD}, head_lr * rate(t), wd)
        weights |= dense([1.0, 1.0])
    assert worth.any()
    return weights


def kept_inputs(change, base_lr, base_wd, head_lr):
    """AdamW on everything; ∇W uses change(inputs of a hidden matrix) in place of the inputs."""
    weights, optimizer = nets.start(), Adam()
    for t, (x, y) in zip(range(STEPS), nets.batches()):
        if t == 0:
            torch.manual_seed(2)  # the task has used torch's own generator
        scores, kept = nets.forward(weights, x)
        kept = [*((change(each[0]), *each[1:]) for each in kept[:-1]), kept[-1]]
        g = nets.backward(weights, kept, (nets.softmax(scores) - np.eye(nets.CLASSES)[y]) / len(y))
        lr = {n: (head_lr if n in HEAD else base_lr) * rate(t) for n in g}
        optimizer.step(weights, g, lr, base_wd)
    return weights


def mesa_training(submission, groups, **hp):
    """Inputs of the backward pass from 256 levels of a group (arXiv 2111.11124, section 3)."""

    def change(x):
        parts = []
        for part in np.split(x, groups, axis=1):
            step = (part.max() - part.min()) / 255
            parts.append(part.min() + np.round((part - part.min()) / step) * step)
        return np.concatenate(parts, axis=1)

    return kept_inputs(change, **hp)


def wta_crs(submission, kept, **hp):
    """Some tokens for certain, others by lot with a weight (arXiv 2305.15265, section 3.2)."""

    def change(x):
        p = np.linalg.norm(x, axis=1)
        p, k = p / p.sum(), int(kept * len(x))
        order = np.argsort(-p, kind="stable")
        sizes = [(1 - p[order[:c]].sum()) / (k - c) for c in range(k)]
        c = int(np.argmin(sizes))
        others = order[c:]
        drawn = torch.multinomial(torch.from_numpy(p[others]), k - c, replacement=True).numpy()
        weights = np.zeros(len(x))
        weights[order[:c]] = 1.0
        for t in others[drawn]:
            weights[t] += sizes[c] / p[t]
        return weights[:, None] * x

    return kept_inputs(change, **hp)


def sparse_update(submission, blocks, part, base_lr, base_wd, head_lr):
    """Biases and the first columns of the last block (arXiv 2206.15472, section 2.3)."""
    weights, optimizer = nets.start(), Adam()
    columns = int(part * weights[HIDDEN[1]].shape[1])
    first = weights[HIDDEN[1]].copy()
    biases = ["blocks.1.linear.bias", "blocks.1.norm.bias"]
    change = {"change": np.zeros((len(first), columns))}
    for t, batch in zip(range(STEPS), nets.batches()):
        g = gradients(weights, *batch)
        lr = {n: (head_lr if n in HEAD else base_lr) * rate(t) for n in biases + HEAD}
        optimizer.step(weights, {n: g[n] for n in biases + HEAD}, lr, base_wd)
        optimizer.t -= 1
        optimizer.step(change, {"change": g[HIDDEN[1]][:, :columns]}, base_lr * rate(t), base_wd)
        weights[HIDDEN[1]] = first.copy()
        weights[HIDDEN[1]][:, :columns] += change["change"]
    return weights


SIZE = {"rank": 3, "alpha": 6.0}
FORMULAS = [
    Row("corda", corda, {**BASE, **SIZE, "keep": "knowledge", "examples": 32}, package="",
        label="knowledge", float64=1e-8),
    Row("corda", corda, {**BASE, **SIZE, "keep": "nothing", "examples": 32}, package="",
        float64=1e-8),
    Row("eva", eva, {**BASE, **SIZE, "spread": 2.0, "examples": 32}, package=""),
    Row("lora_ga", lora_ga, {**BASE, **SIZE, "gamma": 9.0, "batches": 2}, package=""),
    Row("loftq", loftq, {**BASE, **SIZE, "bits": 3, "rounds": 3}, package="", float64=1e-8),
    Row("lora_fa", lora_fa, {**OWN, **SIZE}, package=""),
    Row("lora_pro", lora_pro, {**OWN, **SIZE}, package="", float64=1e-6),
    Row("increlora", increlora, {**OWN, "rank": 2, "alpha": 6.0, "gamma": 0.3, "smooth": 0.8,
        "settle": 0.1, "period": 0.15, "top": 1}, package=""),
    Row("ist", ist, {**OWN, **SIZE, "share_trained": 0.5, "damped": 0.25, "period": 3,
        "rise": 50.0}, package=""),
    Row("mesa_training", mesa_training, {**BASE, "groups": 2}, package=""),
    Row("wta_crs", wta_crs, {**BASE, "kept": 0.5}, package=""),
    Row("sparse_update", sparse_update, {**BASE, "blocks": 1, "part": 0.25}, package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
def test_a_relative_of_lora_equals_its_formula(row, monkeypatch):
    monkeypatch.setattr("submissions.peft.wta_crs.LEAST", 1)
    submission = nets.submitted(row.submission, **row.hp)
    second = row.second(submission, **row.hp)
    torch.manual_seed(2)
    assert nets.difference(nets.run(submission), second) <= row.float64


def test_ist_scores_every_half_by_the_chances_of_before():
    """Of four blocks the halves overlap: a block in all three has p(1 - p) of one σ(I)."""
    method, losses = ist_of.Algorithm.__new__(ist_of.Algorithm), [0.2, 0.9, 1.7]
    halves, seen, before = iter([[0, 1], [0, 2], [0, 3]]), iter(losses), [0.4, -1.0, 0.0, 2.0]
    method.hp, method.worth = SimpleNamespace(damped=0.25, rise=10.0), list(before)
    method.blocks = [[SimpleNamespace(scale=2.0)] for _ in range(4)]
    method.drawn = lambda count, sign: next(halves)
    method.task = SimpleNamespace(forward=lambda batch: next(seen))
    method.probe(None)
    reward = np.exp(-np.array(losses)) - np.exp(-np.array(losses)).mean()
    p = 1 / (1 + np.exp(-np.array(before)))
    gains = np.array([reward.sum(), *reward])
    np.testing.assert_allclose(method.worth, before + 10 * gains * p * (1 - p), atol=1e-12)
    assert all(m.scale == 2.0 for maps in method.blocks for m in maps)


@pytest.mark.parametrize("dense", [0.0, 0.25])
def test_relora_equals_its_formula(dense):
    """A merge keeps the function and restarts A, B and their AdamW (arXiv 2307.05695)."""
    task = nets.task()
    if dense:
        task.start = None  # as where training starts from random weights
    hp = {**OWN, **SIZE, "dense": dense, "period": 0.25, "rewarm": 3}
    submission = nets.submitted("relora", task, **hp)
    drawn, merge = [], submission.algorithm.merge

    def recorded():
        merge()
        drawn.append({n: array(m.A) for n, m in modules(submission).items()})

    if not dense:
        drawn.append({n: array(m.A) for n, m in modules(submission).items()})
    submission.algorithm.merge = recorded
    ours = nets.run(submission)
    assert len(drawn) == 4 - bool(dense)
    weights, first, s = nets.start(), int(dense * STEPS), SIZE["alpha"] / SIZE["rank"]
    moving, rest = Adam(), Adam()
    lr, wd = OWN["lr"], OWN["wd"]
    for t, batch in zip(range(STEPS), nets.batches()):
        since = (t - first) % 5 if t >= first else t
        if t >= first and since == 0:
            moving, a = Adam(), drawn.pop(0)
            frozen = {n: weights[n] for n in HIDDEN}
            own = {(n, "A"): a[n] for n in HIDDEN}
            own |= {(n, "B"): np.zeros((len(a), SIZE["rank"])) for n, a in frozen.items()}
        g = gradients(weights, *batch)
        now = lr * rate(t) * (min(1, (since + 1) / 3) if t > since else 1)
        if t < first:
            moving.step(weights, {n: g[n] for n in HIDDEN}, now, wd)
        else:
            grads = {(n, "A"): s * own[n, "B"].T @ g[n] for n in HIDDEN}
            grads |= {(n, "B"): s * g[n] @ own[n, "A"].T for n in HIDDEN}
            moving.step(own, grads, now, wd)
            weights |= {n: frozen[n] + s * own[n, "B"] @ own[n, "A"] for n in HIDDEN}
        names = [n for n in weights if n not in HIDDEN] if dense else HEAD
        rates = {n: (OWN["head_lr"] if n in HEAD else lr) * rate(t) for n in names}
        rest.step(weights, {n: g[n] for n in names}, rates, wd)
    assert nets.difference(ours, weights) < 1e-10


def test_wta_crs_has_no_bias_and_less_variance_than_plain_sampling():
    """By enumeration: of 5 tokens, 3 are kept."""
    p = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05], dtype=torch.float64)
    torch.manual_seed(0)
    draws = [wta.sample(p, 3) for _ in range(4000)]
    values = torch.zeros(len(draws), 5, dtype=torch.float64)
    for row, (index, weights) in zip(values, draws):
        row.index_add_(0, index, weights)
    # |C| = 1 leaves (1 - 0.5)/2 = 0.25 a draw; |C| = 0 and |C| = 2 leave 0.33 and 0.3.
    assert (values[:, 0] == 1.0).all()
    torch.testing.assert_close(values.mean(0), torch.ones_like(p), atol=0.05, rtol=0)
    plain = ((1 - p) / (3 * p))[1:]  # of three draws among all
    assert (values[:, 1:].var(0) < plain).all()
