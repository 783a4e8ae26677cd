"""Further pruning methods follow a second implementation, step by step.

On the network of tests/support/nets.py, in float64: numpy loops written from the papers' rules,
from the scores to the weights that are handed over after training.
"""

import math

import numpy as np
import pytest
import torch

from tests.parity.test_parity import Row
from tests.parity.test_parity_sparse import (
    block_inputs,
    calibration,
    ceil,
    kept,
    modules,
    ranked_in_rows,
    ranked_together,
    train,
    two_of_four,
)
from tests.support import nets
from tests.support.nets import HIDDEN, STEPS, Adam, gradients, rate

BASE = {"base_lr": 0.02, "base_wd": 0.1}
OWN = {"lr": 0.02, "wd": 0.1, "beta2": 0.95}


def array(tensor):
    return tensor.detach().numpy().copy()


def masked_training(change, lr, wd, beta2):
    """AdamW on everything; change(t, weights, masks) may return new masks before step t."""
    weights, masks, optimizer = nets.start(), {}, Adam(beta2=beta2)
    for t, batch in zip(range(STEPS), nets.batches()):
        if (new := change(t, weights, masks)) is not None:
            masks = new
            for values in (weights, optimizer.m, optimizer.v):
                values |= {n: values[n] * m for n, m in masks.items() if n in values}
        g = gradients(weights, *batch)
        g |= {n: g[n] * m for n, m in masks.items()}
        optimizer.step(weights, g, lr * rate(t), wd)
    return weights


def size(weights):
    return {n: np.abs(weights[n]) for n in HIDDEN}


def gmp(submission, sparsity, scope, begin, end, updates, **hp):
    """s·(1 − (1 − k/n)³) at n points between two shares of the horizon (arXiv 1710.01878)."""
    points = [begin + (end - begin) * k / (updates - 1) for k in range(updates)]
    steps = [math.ceil(round(p * STEPS, 9)) for p in points]
    assert len(set(steps)) == updates

    def change(t, weights, masks):
        if t not in steps:
            return None
        share = sparsity * (1 - (1 - (steps.index(t) + 1) / updates) ** 3)
        if scope == "global":
            return ranked_together(size(weights), share)
        return {n: kept(np.abs(weights[n]), share) for n in HIDDEN}

    return masked_training(change, **hp)


def woodfisher(submission, sparsity, block, damp, rounds, end, lr, wd, beta2):
    """Costs and compensation by the inverse Fisher blocks of rows (arXiv 2004.14340)."""
    weights, optimizer, length = nets.start(), Adam(beta2=beta2), int(end * STEPS / rounds)
    masks = {n: np.ones(weights[n].shape, dtype=bool) for n in HIDDEN}
    seen = []
    for t, batch in zip(range(STEPS), nets.batches()):
        g = gradients(weights, *batch)
        g |= {n: g[n] * masks[n] for n in HIDDEN}
        seen.append(g)
        optimizer.step(weights, g, lr * rate(t), wd)
        number, rest = divmod(t + 1, length)
        if rest or number > rounds:
            continue
        cost, moved = {}, {}
        for n in HIDDEN:
            w, (rows, inputs) = weights[n], weights[n].shape
            assert inputs % block == 0
            inverse = {}
            for i in range(rows):
                for c in range(0, inputs, block):
                    parts = [s[n][i, c : c + block] for s in seen]
                    fisher = damp * np.eye(block) + sum(np.outer(p, p) for p in parts) / len(parts)
                    inverse[i, c] = np.linalg.inv(fisher)
            diagonal = np.array([
                np.concatenate([np.diag(inverse[i, c]) for c in range(0, inputs, block)])
                for i in range(rows)
            ])  # fmt: skip
            cost[n] = np.where(masks[n], w**2 / (2 * diagonal), -1.0)
            moved[n] = inverse, diagonal
        masks = ranked_together(cost, sparsity * (1 - (1 - number / rounds) ** 3))
        for n in HIDDEN:
            inverse, diagonal = moved[n]
            w = weights[n].copy()
            for i, q in zip(*np.nonzero(~masks[n])):
                c = q // block * block
                column = inverse[i, c][:, q - c]
                w[i, c : c + block] -= weights[n][i, q] / diagonal[i, q] * column
            weights[n] = w * masks[n]
            optimizer.m[n], optimizer.v[n] = optimizer.m[n] * masks[n], optimizer.v[n] * masks[n]
        seen = []
    return weights


def soft_threshold(submission, sparsity, start, pull, rate_of_s, cut, lr, wd, beta2):
    """sign(W)·relu(|W| − σ(s)) (arXiv 2002.03231)."""
    weights, optimizer, s = nets.start(), Adam(beta2=beta2), dict.fromkeys(HIDDEN, start)
    masks = dict.fromkeys(HIDDEN, True)

    def dense(n):
        low = 1 / (1 + math.exp(-s[n]))
        return np.sign(weights[n]) * np.maximum(np.abs(weights[n]) - low, 0.0)

    for t, batch in zip(range(STEPS), nets.batches()):
        if t == int(cut * STEPS):
            masks = ranked_together({n: np.abs(dense(n)) for n in HIDDEN}, sparsity)
            weights |= {n: weights[n] * masks[n] for n in HIDDEN}
            for values in (optimizer.m, optimizer.v):
                values |= {n: values[n] * masks[n] for n in HIDDEN}
        g = gradients(weights | {n: dense(n) for n in HIDDEN}, *batch)
        for n in HIDDEN:
            low, on = 1 / (1 + math.exp(-s[n])), dense(n) != 0
            slope = -(g[n] * np.sign(weights[n]) * on).sum() * low * (1 - low)
            s[n] -= rate(t) * (pull * s[n] + rate_of_s * slope)
            g[n] = g[n] * on * masks[n]
        optimizer.step(weights, g, lr * rate(t), wd)
    return weights | {n: dense(n) for n in HIDDEN}


def ac_dc(submission, sparsity, scope, two_four, **hp):
    """Masks at steps 2, 4, ... of twenty, dense at 3, 5, ... (arXiv 2106.12379, figure 1)."""
    assert STEPS == 20

    def change(t, weights, masks):
        if t in (2, 4, 6, 8, 10, 12, 14, 17):
            if two_four:
                return {n: two_of_four(np.abs(weights[n])) for n in HIDDEN}
            return ranked_together(size(weights), sparsity)
        if t in (3, 5, 7, 9, 11, 13, 15):
            return {n: np.ones(weights[n].shape) for n in HIDDEN}
        return None

    return masked_training(change, **hp)


PATTERNS = np.array([
    [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]
])  # fmt: skip


def maskllm(submission, base_lr, base_wd):
    """Gumbel-softmax over the six patterns of four weights (arXiv 2409.17481, section 3.2)."""
    weights, first, optimizer = nets.start(), nets.start(), Adam()
    logits = {n: array(m.logits) for n, m in modules(submission).items()}
    for t, batch in zip(range(STEPS), nets.batches()):
        if t == 0:
            torch.manual_seed(2)  # the task has used torch's own generator
        at, shares = (t + 0.5) / STEPS, {}
        kappa, tau = 100 + 400 * at, 4 - 3.95 * at
        for n in HIDDEN:
            drawn = torch.empty(logits[n].shape, dtype=torch.float64).exponential_()
            z = np.exp((kappa * logits[n] - np.log(drawn.numpy())) / tau)
            shares[n] = z / z.sum(1, keepdims=True)
            weights[n] = first[n] * (shares[n] @ PATTERNS).reshape(first[n].shape)
        g, grads = gradients(weights, *batch), {}
        for n in HIDDEN:
            pull = (g[n] * first[n]).reshape(-1, 4) @ PATTERNS.T
            p = shares[n]
            grads[n] = kappa / tau * p * (pull - (pull * p).sum(1, keepdims=True))
        optimizer.step(logits, grads, base_lr * rate(t), base_wd)
    hard = {n: PATTERNS[logits[n].argmax(1)].reshape(first[n].shape) for n in HIDDEN}
    return weights | {n: first[n] * hard[n] for n in HIDDEN}


def spp(submission, sparsity, rank, scale, base_lr, base_wd):
    """W + s·W ⊙ (b·A*), A's rows repeated (arXiv 2405.16057, equation 4)."""
    weights, optimizer, own = nets.start(), Adam(), {}
    masks = ranked_together(size(weights), sparsity)
    first = {n: weights[n] * masks[n] for n in HIDDEN}
    for n, m in modules(submission).items():
        own |= {(n, "A"): array(m.A), (n, "b"): np.zeros((len(first[n]), 1))}
    names = [n for n in weights if n.endswith("bias") or ".norm." in n]

    def repeated(n):
        times = len(first[n]) // rank
        return np.stack([own[n, "A"][i // times] for i in range(len(first[n]))])

    def dense():
        return {n: first[n] * (1 + scale * repeated(n) * own[n, "b"]) for n in HIDDEN}

    for t, batch in zip(range(STEPS), nets.batches()):
        weights |= dense()
        g, grads = gradients(weights, *batch), {}
        for n in HIDDEN:
            inner = scale * g[n] * first[n]
            times = len(first[n]) // rank
            rows = (inner * own[n, "b"]).reshape(rank, times, -1).sum(1)
            grads |= {(n, "A"): rows, (n, "b"): (inner * repeated(n)).sum(1, keepdims=True)}
        optimizer.step(own, grads, base_lr * rate(t), base_wd)
        optimizer.t -= 1
        optimizer.step(weights, {n: g[n] for n in names}, base_lr * rate(t), base_wd)
    return weights | dense()


def distil(submission, sparsity, kind, weight, temperature, delta, lr, wd, beta2):
    """The gradient of both divergences at the outputs (arXiv 1503.02531, 2212.12965)."""
    weights, first, optimizer = nets.start(), nets.start(), Adam(beta2=beta2)
    masks = ranked_together(size(weights), sparsity)
    weights |= {n: weights[n] * masks[n] for n in HIDDEN}
    wider = []
    for t, (x, y) in zip(range(STEPS), nets.batches()):
        scores, seen = nets.forward(weights, x)
        p = nets.softmax(nets.forward(first, x)[0] / temperature)
        q = nets.softmax(scores / temperature)
        forward = q - p
        gap = np.log(q) - np.log(p)
        reverse = q * (gap - (q * gap).sum(1, keepdims=True))
        if kind == "balanced":
            more = -(p * np.log(p)).sum(1) > -(q * np.log(q)).sum(1)
            wider += more.tolist()
            a, b = np.where(more, delta, 1.0)[:, None], np.where(more, 1.0, delta)[:, None]
        else:
            a, b = float(kind == "forward"), float(kind == "reverse")
        d = nets.softmax(scores) - np.eye(nets.CLASSES)[y]
        d = (d + weight * temperature * (a * forward + b * reverse)) / len(y)
        g = nets.backward(weights, seen, d)
        g |= {n: g[n] * masks[n] for n in HIDDEN}
        optimizer.step(weights, g, lr * rate(t), wd)
    assert kind != "balanced" or 0 < sum(wider) < len(wider)
    return weights


def sparse_evolution(submission, sparsity, period, until, fraction, **hp):
    """Positive and negative weights lose their own smallest (arXiv 1707.04780, algorithm 1)."""
    generator, first = nets.draws(), nets.start()
    sizes = {n: first[n].size for n in HIDDEN}
    raw = {n: sum(first[n].shape) / sizes[n] for n in HIDDEN}
    scale = (1 - sparsity) * sum(sizes.values()) / sum(raw[n] * sizes[n] for n in HIDDEN)

    def change(t, weights, masks):
        if t == 0:
            return {n: kept(np.abs(first[n]), 1 - raw[n] * scale) for n in HIDDEN}
        if t % period or t >= until * STEPS:
            return None
        new = {}
        for n in HIDDEN:
            flat, on = weights[n].ravel(), masks[n].ravel()
            mask = on.copy()
            for own in (np.flatnonzero(on & (flat >= 0)), np.flatnonzero(on & (flat < 0))):
                order = own[np.argsort(np.abs(flat[own]))]
                mask[order[: int(fraction * len(own))]] = False
            chance = torch.rand(weights[n].shape, generator=generator).numpy().ravel()
            empty = np.flatnonzero(~on)
            order = empty[np.argsort(-chance[empty])]
            mask[order[: on.sum() - mask.sum()]] = True
            assert mask.sum() == on.sum()
            assert (mask != on).any()
            new[n] = mask.reshape(weights[n].shape)
        return new

    return masked_training(change, **hp)


def pruned_in_turn(examples, mask_of, **hp):
    """Prune matrix after matrix, each with the inputs that the pruned ones before give it."""
    weights, masks, x = nets.start(), {}, calibration(examples)
    for name in HIDDEN:
        seen = block_inputs(weights, x)[name]
        masks[name] = mask_of(name, weights[name], seen)
        weights[name] = weights[name] * masks[name]
    return train(weights, masks, **hp)


def ria(submission, sparsity, examples, power, **hp):
    """Shares of the row and the column, times the input's norm to a power (ICLR 2024)."""

    def mask_of(name, w, x):
        size = np.abs(w)
        share = size / size.sum(0, keepdims=True) + size / size.sum(1, keepdims=True)
        return ranked_in_rows(share * ((x**2).sum(0) ** 0.5) ** power, sparsity)

    return pruned_in_turn(examples, mask_of, **hp)


def owl(submission, sparsity, examples, outlier, width, **hp):
    """Fewer zeros where more scores are outliers (arXiv 2310.05175, section 4)."""
    dense, d = nets.start(), {}
    for name, x in block_inputs(dense, calibration(examples)).items():
        score = np.abs(dense[name]) * np.sqrt((x**2).sum(0))
        d[name] = (score > outlier * score.mean()).mean()
    low, high = min(d.values()), max(d.values())
    assert high > low
    scaled = {n: (v - low) / (high - low) * 2 * width for n, v in d.items()}
    mean = sum(scaled.values()) / len(scaled)

    def mask_of(name, w, x):
        score = np.abs(w) * np.sqrt((x**2).sum(0))
        return ranked_in_rows(score, sparsity - (scaled[name] - mean))

    return pruned_in_turn(examples, mask_of, **hp)


def dsnot(submission, sparsity, examples, cycles, small, **hp):
    """A row's weights change places while its expected error has one sign (arXiv 2310.08915)."""
    moves = []

    def mask_of(name, w, x):
        score, mask = np.abs(w) * np.sqrt((x**2).sum(0)), None
        mask = ranked_in_rows(score, sparsity)
        mean, variance = x.mean(0), x.var(0, ddof=1)
        for i, row in enumerate(w):
            effect = row * mean
            limit = small * (x @ row).std(ddof=1)
            error = effect[~mask[i]].sum()
            for _ in range(cycles):
                if abs(error) <= limit:
                    break
                sign = np.sign(error)
                back = [j for j in np.flatnonzero(~mask[i]) if effect[j] * sign > 0]
                out = [j for j in np.flatnonzero(mask[i]) if effect[j] * sign < 0]
                if not back or not out:
                    break
                j = max(back, key=lambda j: abs(effect[j]) / variance[j])
                k = min(out, key=lambda k: score[i, k])
                mask[i, j], mask[i, k] = True, False
                moves.append((i, j, k))
                error = error - effect[j] + effect[k]
                if np.sign(error) != sign:
                    break
        assert (mask.sum(1) == w.shape[1] - ceil(sparsity, w.shape[1])).all()
        return mask

    result = pruned_in_turn(examples, mask_of, **hp)
    assert moves
    return result


def block_slopes(weights, i, x, d):
    """Return ∂/∂W of block i for the gradient d of its outputs, at inputs x."""
    u = x @ weights[HIDDEN[i]].T + weights[f"blocks.{i}.linear.bias"]
    scale = np.sqrt(u.var(1, keepdims=True) + nets.EPS)
    n = (u - u.mean(1, keepdims=True)) / scale
    gain = weights[f"blocks.{i}.norm.weight"]
    d = d * (n * gain + weights[f"blocks.{i}.norm.bias"] > 0) * gain
    d = (d - d.mean(1, keepdims=True) - n * (d * n).mean(1, keepdims=True)) / scale
    return d.T @ x


def wanda_plus(submission, sparsity, examples, alpha, rounds, batch, rate, **hp):
    """Scores with regional gradients, and RMSprop on each block (arXiv 2503.04992)."""
    weights, generator, masks = nets.start(), nets.draws(), {}
    x = calibration(examples)
    for i, name in enumerate(HIDDEN):
        seen = block_inputs(weights, x)[name]

        def out(weights, seen=seen, i=i):
            names = [f"blocks.{i}.{n}" for n in ("linear.weight", "linear.bias")]
            u = seen @ weights[names[0]].T + weights[names[1]]
            n = (u - u.mean(1, keepdims=True)) / np.sqrt(u.var(1, keepdims=True) + nets.EPS)
            a = n * weights[f"blocks.{i}.norm.weight"] + weights[f"blocks.{i}.norm.bias"]
            return np.maximum(a, 0)

        aim, squares = out(weights), 0.0
        for row in range(examples):
            d = aim[row : row + 1] / np.linalg.norm(aim[row])
            squares = squares + block_slopes(weights, i, seen[row : row + 1], d) ** 2
        g, v = np.sqrt(squares / examples), 0.0
        for done in range(rounds + 1):
            score = (alpha * g + np.sqrt((seen**2).sum(0))) * np.abs(weights[name])
            masks[name] = ranked_in_rows(score, sparsity)
            weights[name] = weights[name] * masks[name]
            if done < rounds:
                index = torch.randperm(examples, generator=generator)[:batch].numpy()
                gap = (out(weights) - aim)[index]
                slope = block_slopes(weights, i, seen[index], 2 * gap / gap.size)
                v = 0.99 * v + 0.01 * slope**2
                step = rate * slope / (np.sqrt(v) + 1e-8)
                weights[name] = weights[name] - step * masks[name]
    return train(weights, masks, **hp)


def spdf(submission, sparsity, densify, **hp):
    """A random mask until a share of the horizon (arXiv 2303.10464)."""
    generator = nets.draws()

    def change(t, weights, masks):
        if t == 0:
            drawn = {n: torch.rand(weights[n].shape, generator=generator) for n in HIDDEN}
            return {n: kept(drawn[n].numpy(), sparsity) for n in HIDDEN}
        dense = {n: np.ones(weights[n].shape) for n in HIDDEN}
        return dense if t == int(densify * STEPS) else None

    return masked_training(change, **hp)


def progressive_mask(submission, flow, decay, octaves, cool, base_lr, base_wd):
    """What the mask hides fades, or the pattern tightens to 2:4 (arXiv 2402.04744, section 4)."""
    weights, optimizer = nets.start(), Adam()

    def largest(w, n, m):
        rows = ranked_in_rows(np.abs(w).reshape(-1, m), 1 - n / m)
        return rows.reshape(w.shape)

    def seen(at):
        part, result = min(at / cool, 1.0), {}
        for n in HIDDEN:
            w = weights[n]
            if flow == "exponential":
                leak = math.exp(-decay * at) if part < 1 else 0.0
                result[n] = w * np.where(largest(w, 2, 4), 1.0, leak)
            elif flow == "stepwise":
                result[n] = w * largest(w, 3 if part < 1 else 2, 4)
            else:
                level = octaves - int(part * octaves)
                while w.shape[1] % (4 * 2**level):
                    level -= 1
                result[n] = w * largest(w, 2 * 2**level, 4 * 2**level)
        return result

    for t, batch in zip(range(STEPS), nets.batches()):
        g = gradients(weights | seen((t + 0.5) / STEPS), *batch)
        optimizer.step(weights, g, base_lr * rate(t), base_wd)
    return weights | seen(1.0)


SHARE = {**BASE, "sparsity": 0.6}
FLOW = {**BASE, "decay": 5.0, "octaves": 1, "cool": 0.5}
FORMULAS = [
    Row("gmp", gmp, {**OWN, "sparsity": 0.8, "scope": "layer", "begin": 0.1, "end": 0.6,
        "updates": 4}, package=""),
    Row("gmp", gmp, {**OWN, "sparsity": 0.8, "scope": "global", "begin": 0.0, "end": 0.5,
        "updates": 5}, package="", label="global"),
    Row("woodfisher", woodfisher, {**OWN, "sparsity": 0.8, "block": 4, "damp": 1e-4, "rounds": 3,
        "end": 0.75}, package="", float64=1e-9),
    Row("woodfisher", woodfisher, {**OWN, "sparsity": 0.8, "block": 1, "damp": 1e-4, "rounds": 2,
        "end": 0.5}, package="", label="obd"),
    Row("soft_threshold", soft_threshold, {**OWN, "sparsity": 0.7, "start": -4.0, "pull": 0.05,
        "rate": 0.5, "cut": 0.6}, package=""),
    Row("ac_dc", ac_dc, {**OWN, "sparsity": 0.7, "scope": "global", "two_four": False},
        package=""),
    Row("ac_dc", ac_dc, {**OWN, "sparsity": 0.5, "scope": "global", "two_four": True},
        package="", label="2:4"),
    Row("maskllm", maskllm, {"base_lr": 0.003, "base_wd": 0.0}, package="", float64=1e-9),
    Row("spp", spp, {**SHARE, "rank": 4, "scale": 2.0}, package=""),
    Row("distil", distil, {**OWN, "sparsity": 0.6, "kind": "balanced", "weight": 0.7,
        "temperature": 1.5, "delta": 3.0}, package=""),
    Row("distil", distil, {**OWN, "sparsity": 0.6, "kind": "forward", "weight": 0.7,
        "temperature": 2.0, "delta": 1.0}, package="", label="forward"),
    Row("distil", distil, {**OWN, "sparsity": 0.6, "kind": "reverse", "weight": 0.7,
        "temperature": 2.0, "delta": 1.0}, package="", label="reverse"),
    Row("sparse_evolution", sparse_evolution, {**OWN, "sparsity": 0.6, "period": 4, "until": 0.75,
        "fraction": 0.4}, package=""),
    Row("ria", ria, {**SHARE, "examples": 24, "power": 0.5}, package=""),
    Row("owl", owl, {**SHARE, "examples": 24, "outlier": 3.0, "width": 0.15}, package=""),
    Row("dsnot", dsnot, {**SHARE, "examples": 24, "cycles": 5, "small": 0.01}, package=""),
    Row("wanda_plus", wanda_plus, {**SHARE, "examples": 24, "alpha": 5.0, "rounds": 2,
        "batch": 8, "rate": 1e-3}, package="", float64=1e-9),
    Row("spdf", spdf, {**OWN, "sparsity": 0.6, "densify": 0.5}, package=""),
    Row("progressive_mask", progressive_mask, {**FLOW, "flow": "exponential"}, package=""),
    Row("progressive_mask", progressive_mask, {**FLOW, "flow": "stepwise"}, package="",
        label="stepwise"),
    Row("progressive_mask", progressive_mask, {**FLOW, "flow": "geometric"}, package="",
        label="geometric"),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
def test_a_pruning_method_equals_its_formula(row):
    submission = nets.submitted(row.submission, **row.hp)
    soft = row.submission == "soft_threshold"
    renamed = {"rate_of_s" if soft and k == "rate" else k: v for k, v in row.hp.items()}
    second = row.second(submission, **renamed)
    torch.manual_seed(2)
    assert nets.difference(nets.run(submission), second) <= row.float64
