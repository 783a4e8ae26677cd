"""Pruning, sparse training and quantisation follow a second implementation, step by step.

On the network of tests/support/nets.py, in float64: numpy loops written from the papers' rules,
from the scores or grids to the weights that are handed over after training.
"""

import math

import numpy as np
import pytest
import torch

from harness import surgery
from tests.parity.test_parity import Row
from tests.support import nets
from tests.support.nets import HIDDEN, STEPS, Adam, gradients, rate

BASE = {"base_lr": 0.02, "base_wd": 0.1}
OWN = {"lr": 0.02, "wd": 0.1, "beta2": 0.95}


def modules(submission):
    """The modules in the places of the hidden matrices, by the weight's name."""
    return {f"{n}.weight": m for n, m in surgery.matrices(submission.task.model).items()}


def ceil(share, count):
    return math.ceil(round(share * count, 6))


def kept(scores, share):
    """True for the largest: ⌈share·n⌉ of an array's n elements are not."""
    order = np.argsort(-scores.ravel(), kind="stable")
    mask = np.zeros(scores.size, dtype=bool)
    mask[order[: scores.size - ceil(share, scores.size)]] = True
    return mask.reshape(scores.shape)


def ranked_together(scores, share):
    """Masks by one ranking over all matrices."""
    whole = kept(np.concatenate([scores[n].ravel() for n in HIDDEN]), share)
    parts = np.split(whole, np.cumsum([scores[n].size for n in HIDDEN])[:-1])
    return {n: part.reshape(scores[n].shape) for n, part in zip(HIDDEN, parts)}


def ranked_in_rows(scores, share):
    return np.stack([kept(row, share) for row in scores])


def two_of_four(scores):
    out, inputs = scores.shape
    return ranked_in_rows(scores.reshape(out * inputs // 4, 4), 0.5).reshape(out, inputs)


def train(weights, masks, base_lr, base_wd, stream=None):
    """AdamW on everything, what is masked being zero throughout."""
    optimizer = Adam()
    for name, mask in masks.items():
        weights[name] = weights[name] * mask
    for t, batch in zip(range(STEPS), stream or nets.batches()):
        g = gradients(weights, *batch)
        g |= {name: g[name] * mask for name, mask in masks.items()}
        optimizer.step(weights, g, base_lr * rate(t), base_wd)
    return weights


def block_inputs(weights, x):
    """What each hidden matrix is multiplied with."""
    found = {}
    for i, name in enumerate(HIDDEN):
        found[name] = x
        u = x @ weights[name].T + weights[f"blocks.{i}.linear.bias"]
        n = (u - u.mean(1, keepdims=True)) / np.sqrt(u.var(1, keepdims=True) + nets.EPS)
        x = n * weights[f"blocks.{i}.norm.weight"] + weights[f"blocks.{i}.norm.bias"]
        x = np.maximum(x, 0)
    return found


def calibration(examples):
    return nets.task().calibration(examples).numpy()


# Masks before training


def magnitude(submission, sparsity, scope="global", two_four=False, **hp):
    weights = nets.start()
    size = {n: np.abs(weights[n]) for n in HIDDEN}
    if two_four:
        masks = {n: two_of_four(size[n]) for n in HIDDEN}
    elif scope == "row":
        masks = {n: ranked_in_rows(size[n], sparsity) for n in HIDDEN}
    elif scope == "layer":
        masks = {n: kept(size[n], sparsity) for n in HIDDEN}
    else:
        if scope == "distribution":
            size = {n: size[n] / weights[n].std(ddof=1) for n in HIDDEN}
        masks = ranked_together(size, sparsity)
    return train(weights, masks, **hp)


def random_mask(submission, sparsity, **hp):
    weights, generator = nets.start(), nets.draws()
    drawn = {n: torch.rand(weights[n].shape, generator=generator).numpy() for n in HIDDEN}
    return train(weights, {n: kept(drawn[n], sparsity) for n in HIDDEN}, **hp)


def snip(submission, sparsity, batches, **hp):
    """|g ⊙ w|; a division by their sum changes no ranking (arXiv 1810.02340)."""
    weights, stream = nets.start(), nets.batches()
    total = dict.fromkeys(HIDDEN, 0.0)
    for _ in range(batches):
        g = gradients(weights, *next(stream))
        total = {n: total[n] + g[n] for n in HIDDEN}
    scores = {n: np.abs(total[n] * weights[n]) for n in HIDDEN}
    return train(weights, ranked_together(scores, sparsity), stream=stream, **hp)


def grasp(submission, sparsity, **hp):
    """−w ⊙ Hg, H g by differences of gradients; the smallest stay (arXiv 2002.07376)."""
    weights, stream, eps = nets.start(), nets.batches(), 1e-5
    batch = next(stream)
    g = gradients(weights, *batch)
    up = gradients({n: w + eps * g[n] for n, w in weights.items()}, *batch)
    down = gradients({n: w - eps * g[n] for n, w in weights.items()}, *batch)
    scores = {n: weights[n] * (up[n] - down[n]) / (2 * eps) for n in HIDDEN}
    return train(weights, ranked_together(scores, sparsity), stream=stream, **hp)


def synflow(submission, sparsity, rounds, **hp):
    """w ⊙ ∂R/∂w of R = 1ᵀ|W₂||W₁||W₀|1, in rounds (arXiv 2006.05467, Algorithm 1)."""
    weights = nets.start()
    ahead = np.abs(weights["readout.weight"]).sum(0)
    masks = {n: np.ones(weights[n].shape, dtype=bool) for n in HIDDEN}
    for k in range(1, rounds + 1):
        first, second = (np.abs(weights[n]) * masks[n] for n in HIDDEN)
        scores = {
            HIDDEN[0]: first * (ahead @ second)[:, None],
            HIDDEN[1]: second * ahead[:, None] * first.sum(1),
        }
        masks = ranked_together(scores, 1 - (1 - sparsity) ** (k / rounds))
    return train(weights, masks, **hp)


def wanda(submission, sparsity, examples, **hp):
    """|W|·‖X‖ in rows, a block's inputs after the blocks before were pruned (arXiv 2306.11695)."""
    weights, masks, x = nets.start(), {}, calibration(examples)
    for name in HIDDEN:
        seen = block_inputs(weights, x)[name]
        scores = np.abs(weights[name]) * np.sqrt((seen**2).sum(0))
        masks[name] = ranked_in_rows(scores, sparsity)
        weights[name] = weights[name] * masks[name]
    return train(weights, masks, **hp)


def surgeon(weight, x, damp, columns, choose):
    """Optimal brain surgery, column by column, on the inverse Hessian of what is left.

    Args:
        choose: (block [out, columns], diagonal of the inverse at each column's turn) ->
            (column of the block, its values) -> new values.
    """
    w, n = weight.copy(), weight.shape[1]
    h = x.T @ x
    h += damp * np.diag(h).mean() * np.eye(n)
    stages, inverse = [], np.linalg.inv(h)
    for j in range(n):
        stages.append(inverse.copy())
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    for begin in range(0, n, columns):
        end = min(begin + columns, n)
        new = choose(w[:, begin:end].copy(), np.array([stages[j][j, j] for j in range(begin, end)]))
        for j in range(begin, end):
            value = new(j - begin, w[:, j].copy())
            gap = (w[:, j] - value) / stages[j][j, j]
            w[:, j + 1 :] -= np.outer(gap, stages[j][j, j + 1 :])
            w[:, j] = value
    return w


def sparsegpt(submission, sparsity, examples, damp, columns, **hp):
    weights, masks, x = nets.start(), {}, calibration(examples)

    def choose(block, diagonal):
        mask = kept(block**2 / diagonal, sparsity)
        return lambda j, values: values * mask[:, j]

    for name in HIDDEN:
        seen = block_inputs(weights, x)[name]
        weights[name] = surgeon(weights[name], seen, damp, columns, choose)
        masks[name] = weights[name] != 0
    return train(weights, masks, **hp)


# Masks that change in training


def imp(submission, sparsity, rounds, rewind, point, lr, wd, beta2):
    """Train, prune the smallest of all, rewind, again (arXiv 1803.03635, 2003.02389)."""
    weights, masks = nets.start(), dict.fromkeys(HIDDEN, True)
    length, done, optimizer, begun = STEPS // (rounds + 1), 0, Adam(beta2=beta2), 0
    for t, batch in zip(range(STEPS), nets.batches()):
        if t == point:
            early = {n: w.copy() for n, w in weights.items()}
        if t and t % length == 0 and done < rounds:
            done, begun, optimizer = done + 1, t, Adam(beta2=beta2)
            scores = {n: np.where(masks[n], np.abs(weights[n]), -1.0) for n in HIDDEN}
            masks = ranked_together(scores, 1 - (1 - sparsity) ** (done / rounds))
            if rewind == "weights":
                weights = {n: w.copy() for n, w in early.items()}
            weights |= {n: weights[n] * masks[n] for n in HIDDEN}
        span = length if done < rounds else STEPS - rounds * length
        g = gradients(weights, *batch)
        g |= {n: g[n] * masks[n] for n in HIDDEN}
        optimizer.step(weights, g, lr * rate(t - begun, span), wd)
    return weights


def rigl(submission, sparsity, densities, start, period, until, fraction, lr, wd, beta2):
    """Drop small weights, grow where the gradient is large (arXiv 1911.11134)."""
    weights, masks = nets.start(), {}
    sizes = {n: weights[n].size for n in HIDDEN}
    raw = {n: sum(weights[n].shape) / sizes[n] for n in HIDDEN}  # Erdős–Rényi
    scale = (1 - sparsity) * sum(sizes.values()) / sum(raw[n] * sizes[n] for n in HIDDEN)
    assert max(raw.values()) * scale <= 1
    for name in HIDDEN:
        masks[name] = kept(np.abs(weights[name]), 1 - raw[name] * scale)
        weights[name] = weights[name] * masks[name]
    optimizer, end, moved = Adam(beta2=beta2), until * STEPS, 0
    for t, batch in zip(range(STEPS), nets.batches()):
        g = gradients(weights, *batch)
        if t and t % period == 0 and t < end:
            f = fraction / 2 * (1 + math.cos(math.pi * t / end))
            for name in HIDDEN:
                flat, on = weights[name].ravel(), np.flatnonzero(masks[name])
                off = np.flatnonzero(~masks[name])
                moved += (count := int(f * len(on)))
                new = masks[name].ravel().copy()
                new[on[np.argsort(np.abs(flat[on]))[:count]]] = False
                new[off[np.argsort(-np.abs(g[name].ravel()[off]))[:count]]] = True
                masks[name] = new.reshape(masks[name].shape)
                for values in (weights, optimizer.m, optimizer.v):
                    values[name] = values[name] * masks[name]
            continue
        g |= {n: g[n] * masks[n] for n in HIDDEN}
        optimizer.step(weights, g, lr * rate(t), wd)
    assert moved
    return weights


def falling(t, sparsity, warm, cool):
    """The cubic schedule of arXiv 2005.07683, section 4."""
    at = ((t + 0.5) / STEPS - warm) / (cool - warm)
    return sparsity * (1 - (1 - min(max(at, 0), 1)) ** 3)


def movement(submission, sparsity, warm, cool, lr, wd, head_lr, beta2):
    """W ⊙ top_v(S), S's gradient ∂L/∂W' ⊙ W straight through."""
    weights, optimizer = nets.start(), Adam(beta2=beta2)
    s = {n: np.zeros(weights[n].shape) for n in HIDDEN}
    for t, batch in zip(range(STEPS), nets.batches()):
        scores = {n: s[n] + 1e-12 * np.abs(weights[n]) for n in HIDDEN}
        masks = ranked_together(scores, falling(t, sparsity, warm, cool))
        g = gradients(weights | {n: weights[n] * masks[n] for n in HIDDEN}, *batch)
        own = {("S", n): g[n] * weights[n] for n in HIDDEN}
        g |= {n: g[n] * masks[n] for n in HIDDEN}
        optimizer.step(weights, g, lr * rate(t), wd)
        optimizer.t -= 1
        flat = {("S", n): s[n] for n in HIDDEN}
        optimizer.step(flat, own, head_lr * rate(t), wd)
        s = {n: flat["S", n] for n in HIDDEN}
    return weights | {n: weights[n] * masks[n] for n in HIDDEN}


def smp(submission, sparsity, warm, cool, lr, wd, head_lr, beta2):
    """Only S is trained; how many of a matrix stay is by a global ranking of |W|."""
    weights, optimizer = nets.start(), Adam(beta2=beta2)
    s = {n: np.zeros(weights[n].shape) for n in HIDDEN}
    for t, batch in zip(range(STEPS), nets.batches()):
        share = falling(t, sparsity, warm, cool)
        counts = ranked_together({n: np.abs(weights[n]) for n in HIDDEN}, share)
        masks = {n: kept(s[n] + 1e-12 * np.abs(weights[n]), 1 - counts[n].mean()) for n in HIDDEN}
        g = gradients(weights | {n: weights[n] * masks[n] for n in HIDDEN}, *batch)
        optimizer.step(s, {n: g[n] * weights[n] for n in HIDDEN}, head_lr * rate(t), wd)
    return weights | {n: weights[n] * masks[n] for n in HIDDEN}


def sr_ste(submission, decay, flow, cool, base_lr, base_wd):
    """∂L/∂W' + λ(1 − m) ⊙ W through a 2:4 mask (arXiv 2102.04010), or the flow of 2402.04744."""
    weights, optimizer = nets.start(), Adam()

    def seen(t):
        masks = {n: two_of_four(np.abs(weights[n])) for n in HIDDEN}
        leak = max(0.0, 1 - (t + 0.5) / STEPS / cool) if flow == "linear" else 0.0
        return masks, {n: weights[n] * np.where(masks[n], 1.0, leak) for n in HIDDEN}

    for t, batch in zip(range(STEPS), nets.batches()):
        masks, dense = seen(t)
        g = gradients(weights | dense, *batch)
        if flow == "none":
            g |= {n: g[n] + decay * ~masks[n] * weights[n] for n in HIDDEN}
        optimizer.step(weights, g, base_lr * rate(t), base_wd)
    return weights | seen(STEPS)[1]


def perp(submission, sparsity, rank, alpha, base_lr, base_wd):
    """Biases, norms and MaskLoRA on what magnitude pruning left (arXiv 2312.15230)."""
    weights, optimizer = nets.start(), Adam()
    masks = ranked_together({n: np.abs(weights[n]) for n in HIDDEN}, sparsity)
    first = {n: weights[n] * masks[n] for n in HIDDEN}
    own = {}
    for n, m in modules(submission).items():
        own |= {(n, "A"): m.A.detach().numpy().copy(), (n, "B"): m.B.detach().numpy().copy()}
    names = [n for n in weights if n.endswith("bias") or ".norm." in n]

    def dense():
        return {n: first[n] + alpha / rank * (own[n, "B"] @ own[n, "A"]) * masks[n] for n in HIDDEN}

    for t, batch in zip(range(STEPS), nets.batches()):
        weights |= dense()
        g, grads = gradients(weights, *batch), {}
        for n in HIDDEN:
            inner = alpha / rank * g[n] * masks[n]
            grads |= {(n, "A"): own[n, "B"].T @ inner, (n, "B"): inner @ own[n, "A"].T}
        optimizer.step(own, grads, base_lr * rate(t), base_wd)
        optimizer.t -= 1
        optimizer.step(weights, {n: g[n] for n in names}, base_lr * rate(t), base_wd)
    return weights | dense()


def sparse_soups(submission, sparsity, copies, lr, wd, beta2):
    """The mean of copies retrained from one pruned start (arXiv 2306.16788)."""
    start = nets.start()
    masks = ranked_together({n: np.abs(start[n]) for n in HIDDEN}, sparsity)
    start |= {n: start[n] * masks[n] for n in HIDDEN}
    total, length, stream = dict.fromkeys(start, 0.0), STEPS // copies, nets.batches()
    for _ in range(copies):
        weights, optimizer = dict(start), Adam(beta2=beta2)
        for t in range(length):
            g = gradients(weights, *next(stream))
            g |= {n: g[n] * masks[n] for n in HIDDEN}
            optimizer.step(weights, g, lr * rate(t, length), wd)
        total = {n: total[n] + w / copies for n, w in weights.items()}
    return total


def sltrain(submission, rank, scale, density, base_lr, base_wd, base_warmup):
    """W = s·BA + sparse, all of it and all the rest trained (arXiv 2406.02214)."""
    weights, optimizer, own, places = nets.start(), Adam(), {}, {}
    for n, m in modules(submission).items():
        own |= {(n, k): getattr(m, k).detach().numpy().copy() for k in ("A", "B", "values")}
        places[n] = m.support.numpy()
        assert len(places[n]) == int(density * weights[n].size)
        assert not own[n, "B"].any()

    def dense(n):
        flat = scale * (own[n, "B"] @ own[n, "A"]).ravel()
        flat[places[n]] += own[n, "values"]
        return flat.reshape(weights[n].shape)

    for t, batch in zip(range(STEPS), nets.batches()):
        weights |= {n: dense(n) for n in HIDDEN}
        g, grads = gradients(weights, *batch), {}
        for n in HIDDEN:
            grads |= {
                (n, "A"): scale * own[n, "B"].T @ g[n],
                (n, "B"): scale * g[n] @ own[n, "A"].T,
            }
            grads[n, "values"] = g[n].ravel()[places[n]]
        lr = base_lr * rate(t, warmup=base_warmup)
        optimizer.step(own, grads, lr, base_wd)
        optimizer.t -= 1
        rest = {n: v for n, v in g.items() if n not in HIDDEN}
        optimizer.step(weights, rest, lr, base_wd)
    return weights | {n: dense(n) for n in HIDDEN}


# Quantisation


def grid(weight, bits):
    """All points of each row's grid, [out, levels]."""
    low, high = weight.min(1, keepdims=True), weight.max(1, keepdims=True)
    return low + (high - low) * np.arange(2**bits) / (2**bits - 1)


def nearest(points, values):
    """The nearest point of each row's grid to the row's value."""
    which = np.abs(points - values[:, None]).argmin(1)
    return points[np.arange(len(points)), which]


def rtn(submission, bits):
    weights = nets.start()
    for name in HIDDEN:
        points = grid(weights[name], bits)
        weights[name] = np.stack([nearest(points, c) for c in weights[name].T], axis=1)
    return weights


def gptq(submission, bits, examples, damp):
    weights, x = nets.start(), calibration(examples)
    for name in HIDDEN:
        seen, points = block_inputs(weights, x)[name], grid(weights[name], bits)
        weights[name] = surgeon(
            weights[name],
            seen,
            damp,
            weights[name].shape[1],
            lambda block, diagonal, points=points: lambda j, values: nearest(points, values),
        )
    return weights


def comq(submission, bits, examples, sweeps):
    """One coordinate after another to the grid's best point, all tried (arXiv 2403.07134)."""
    weights, x = nets.start(), calibration(examples)
    for name in HIDDEN:
        seen, w = block_inputs(weights, x)[name], weights[name]
        points, q = grid(w, bits), w.copy()
        order = np.argsort(-np.sqrt((seen**2).sum(0)) * np.sqrt((w**2).sum(0)))
        for _ in range(sweeps):
            for j in order:
                tried = np.stack([q] * points.shape[1])  # [levels, out, in]
                tried[:, :, j] = points.T
                lost = (((w - tried) @ seen.T) ** 2).sum(2)
                q[:, j] = points[np.arange(len(w)), lost.argmin(0)]
        weights[name] = q
    return weights


def int8_ste(submission, bits, base_lr, base_wd):
    """Symmetric grids of each step's rows, gradients straight through."""
    weights, optimizer = nets.start(), Adam()

    def rounded(w):
        step = np.abs(w).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
        return step * np.round(w / step)

    for t, batch in zip(range(STEPS), nets.batches()):
        g = gradients(weights | {n: rounded(weights[n]) for n in HIDDEN}, *batch)
        optimizer.step(weights, g, base_lr * rate(t), base_wd)
    return weights | {n: rounded(weights[n]) for n in HIDDEN}


SHARE = {**BASE, "sparsity": 0.8}
SCORED = {"warm": 0.05, "cool": 0.6, **OWN, "head_lr": 0.03, "sparsity": 0.8}
FORMULAS = [
    Row("magnitude", magnitude, {**SHARE, "scope": "global"}, package="", label="global"),
    Row("magnitude", magnitude, {**SHARE, "scope": "layer"}, package="", label="layer"),
    Row("magnitude", magnitude, {**SHARE, "scope": "row"}, package="", label="row"),
    Row("magnitude", magnitude, {**SHARE, "scope": "distribution"}, package="", label="deviation"),
    Row("magnitude", magnitude, {**SHARE, "two_four": True}, package="", label="2:4"),
    Row("random_mask", random_mask, SHARE, package=""),
    Row("snip", snip, {**SHARE, "batches": 2}, package=""),
    Row("grasp", grasp, SHARE, package=""),
    Row("synflow", synflow, {**SHARE, "rounds": 5}, package=""),
    Row("wanda", wanda, {**SHARE, "examples": 24}, package=""),
    Row("sparsegpt", sparsegpt, {**SHARE, "examples": 24, "damp": 0.05, "columns": 4}, package="",
        float64=1e-9),
    Row("imp", imp, {**OWN, "sparsity": 0.8, "rounds": 3, "rewind": "rate", "point": 0},
        package="", label="rate"),
    Row("imp", imp, {**OWN, "sparsity": 0.8, "rounds": 3, "rewind": "weights", "point": 2},
        package="", label="lottery"),
    Row("rigl", rigl, {**OWN, "sparsity": 0.85, "densities": "erdos_renyi", "start": "magnitude",
        "period": 4, "until": 0.75, "fraction": 0.6}, package=""),
    Row("movement", movement, SCORED, package=""),
    Row("smp", smp, SCORED, package=""),
    Row("sr_ste", sr_ste, {**BASE, "decay": 0.05, "flow": "none", "cool": 0.5}, package=""),
    Row("sr_ste", sr_ste, {**BASE, "decay": 0.05, "flow": "linear", "cool": 0.5}, package="",
        label="flow"),
    Row("perp", perp, {**SHARE, "rank": 2, "alpha": 4.0}, package=""),
    Row("sparse_soups", sparse_soups, {**OWN, "sparsity": 0.8, "copies": 2}, package=""),
    Row("sltrain", sltrain, {**BASE, "rank": 2, "scale": 0.7, "density": 0.1,
        "base_warmup": 0.2}, package=""),
    Row("rtn", rtn, {"bits": 3}, package=""),
    Row("gptq", gptq, {"bits": 3, "examples": 24, "damp": 0.05}, package="", float64=1e-9),
    Row("comq", comq, {"bits": 3, "examples": 24, "sweeps": 3}, package="", float64=1e-9),
    Row("int8_ste", int8_ste, {**BASE, "bits": 4}, package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
def test_compression_method_equals_its_formula(row):
    submission = nets.submitted(row.submission, **row.hp)
    second = row.second(submission, **row.hp)
    assert nets.difference(nets.run(submission), second) <= row.float64
