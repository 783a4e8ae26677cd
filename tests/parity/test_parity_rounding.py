"""Further quantisation methods follow a second implementation, step by step.

On the network of tests/support/nets.py, in float64: numpy loops written from the papers' rules.
"""

import numpy as np
import pytest
import torch

from harness import surgery
from tests.parity.test_parity import Row
from tests.parity.test_parity_sparse import block_inputs, calibration, grid, modules
from tests.support import nets
from tests.support.nets import HIDDEN, STEPS, Adam, gradients, rate

BASE = {"base_lr": 0.02, "base_wd": 0.1}
OWN = {"lr": 0.02, "wd": 0.1, "beta2": 0.95}


def through(rounded, lr, wd, beta2=0.95):
    """AdamW on everything; gradients of rounded(W, share of the horizon) go to W unchanged."""
    weights, optimizer = nets.start(), Adam(beta2=beta2)
    for t, batch in zip(range(STEPS), nets.batches()):
        at = (t + 0.5) / STEPS
        g = gradients(weights | {n: rounded(weights[n], at) for n in HIDDEN}, *batch)
        optimizer.step(weights, g, lr * rate(t), wd)
    return weights | {n: rounded(weights[n], 1.0) for n in HIDDEN}


def ternary(submission, kind, scope, warm, base_lr, base_wd):
    """Values of each row or matrix (arXiv 1605.04711, 1603.05279, 2402.17764)."""

    def of(w):
        size = np.abs(w)
        if kind == "binary":
            return np.where(w < 0, -1, 1) * size.mean()
        if kind == "bitnet":
            return size.mean() * np.clip(np.round(w / size.mean()), -1, 1)
        on = size > 0.7 * size.mean()
        return size[on].mean() * np.sign(w) * on

    def rounded(w, at):
        q = of(w) if scope == "matrix" else np.stack([of(row) for row in w])
        share = min(1.0, at / warm)
        return (1 - share) * w + share * q

    result = through(rounded, base_lr, base_wd)
    levels = max(len(np.unique(row)) for n in HIDDEN for row in result[n])
    assert levels == (2 if kind == "binary" else 3)
    return result


def lsq(submission, bits, scope, lr, wd, beta2, head_lr):
    """Weights and the step of their grid (arXiv 1902.08153, equations 1 to 3)."""
    weights, optimizer, s = nets.start(), Adam(beta2=beta2), {}
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    across = {"row": 1, "matrix": None}[scope]
    for n in HIDDEN:
        mean = np.abs(weights[n]).mean(across, keepdims=True).reshape(-1, 1)
        s[n] = 2 * mean / np.sqrt(high)
    outside = 0

    def dense(n):
        return s[n] * np.round(np.clip(weights[n] / s[n], low, high))

    for t, batch in zip(range(STEPS), nets.batches()):
        g, steps = gradients(weights | {n: dense(n) for n in HIDDEN}, *batch), {}
        for n in HIDDEN:
            z = weights[n] / s[n]
            slope = np.where(z < low, low, np.where(z > high, high, np.round(z) - z))
            share = weights[n].shape[1] if scope == "row" else weights[n].size
            steps[n] = (g[n] * slope).sum(across, keepdims=True).reshape(-1, 1)
            steps[n] = steps[n] / np.sqrt(share * high)
            on = (z >= low) & (z <= high)
            outside += (~on).sum()
            g[n] = g[n] * on
        optimizer.step(weights, g, lr * rate(t), wd)
        optimizer.t -= 1
        tagged = {("s", n): s[n] for n in HIDDEN}
        optimizer.step(tagged, {("s", n): steps[n] for n in HIDDEN}, head_lr * rate(t), wd)
        s = {n: tagged["s", n] for n in HIDDEN}
    assert outside or scope == "matrix"
    return weights | {n: dense(n) for n in HIDDEN}


def llm_qat(submission, bits, lr, wd, beta2):
    """KL to the outputs of the unrounded start (arXiv 2305.17888, section 2)."""
    weights, first, optimizer = nets.start(), nets.start(), Adam(beta2=beta2)

    def rounded(n):
        step = np.abs(weights[n]).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
        return step * np.round(weights[n] / step)

    for t, (x, y) in zip(range(STEPS), nets.batches()):
        now = weights | {n: rounded(n) for n in HIDDEN}
        scores, seen = nets.forward(now, x)
        p, q = nets.softmax(nets.forward(first, x)[0]), nets.softmax(scores)
        optimizer.step(weights, nets.backward(now, seen, (q - p) / len(y)), lr * rate(t), wd)
    return weights | {n: rounded(n) for n in HIDDEN}


def units(examples, iterations, batch, fit):
    """Round matrix after matrix: fit(name, matrix, [(inputs, aim)] of the iterations)."""
    weights, dense, generator = nets.start(), nets.start(), nets.draws()
    x = calibration(examples)
    exact = block_inputs(dense, x)
    for n in HIDDEN:
        seen, bias = block_inputs(weights, x)[n], dense[n.replace("weight", "bias")]
        aim, turns = exact[n] @ dense[n].T + bias, []
        for _ in range(iterations):
            index = torch.randperm(examples, generator=generator)[:batch].numpy()
            turns.append((seen[index], aim[index] - bias))
        weights[n] = fit(n, dense[n], turns)
    return weights


def adaround(submission, bits, examples, unit, iterations, batch, rate, regular):
    """h of each weight by gradient descent (arXiv 2004.10568, equations 21 to 24)."""
    moved = []

    def fit(name, w, turns):
        low, step = w.min(1, keepdims=True), np.ptp(w, axis=1)[:, None] / (2**bits - 1)
        floor, rest = np.divmod((w - low) / step, 1.0)
        inside = np.clip((rest + 0.1) / 1.2, 1e-6, 1 - 1e-6)
        own, optimizer = {"v": np.log(inside / (1 - inside))}, Adam(beta2=0.999)

        def up():
            return np.clip(1.2 / (1 + np.exp(-own["v"])) - 0.1, 0, 1)

        for i, (x, aim) in enumerate(turns):
            h, t, sigma = up(), i / iterations, 1 / (1 + np.exp(-own["v"]))
            q = np.clip(floor + h, 0, 2**bits - 1)
            gap = x @ (low + step * q).T - aim
            slope = 2 / len(x) * gap.T @ x * step * (floor + h <= 2**bits - 1)
            if t >= 0.2:
                beta = 20 - 18 * (t - 0.2) / 0.8
                away = 2 * h - 1
                slope -= regular * beta * np.abs(away) ** (beta - 1) * 2 * np.sign(away)
            raw = 1.2 * sigma - 0.1
            slope = slope * 1.2 * sigma * (1 - sigma) * ((raw >= 0) & (raw <= 1))
            optimizer.step(own, {"v": slope}, rate)
        moved.append(((up() >= 0.5) != (rest >= 0.5)).sum())
        return low + step * np.clip(floor + (up() >= 0.5), 0, 2**bits - 1)

    result = units(examples, iterations, batch, fit)
    assert sum(moved)
    return result


def omniquant(submission, bits, examples, unit, iterations, batch, rate):
    """The range of each row by gradient descent (arXiv 2308.13137, equation 2)."""
    top = 2**bits - 1

    def fit(name, w, turns):
        own = {k: np.full((len(w), 1), 4.0) for k in ("l", "u")}
        optimizer = Adam(beta2=0.999)
        least, most = np.minimum(w.min(1), 0)[:, None], np.maximum(w.max(1), 0)[:, None]

        def rows():
            sl, su = (1 / (1 + np.exp(-own[k])) for k in ("l", "u"))
            low, high = sl * least, su * most
            step = (high - low) / top
            zero = np.round(-low / step)
            return sl, su, low, step, zero, np.round(w / step) + zero

        for x, aim in turns:
            sl, su, low, step, zero, code = rows()
            clipped = np.clip(code, 0, top)
            g = 2 / len(x) * (x @ (step * (clipped - zero)).T - aim).T @ x
            off = (code < 0) | (code > top)
            by_zero = (g * off).sum(1, keepdims=True) * -step
            by_step = (g * (clipped - zero - np.where(off, 0.0, w / step))).sum(1, keepdims=True)
            by_step = by_step + by_zero * low / step**2
            by_low = -by_step / top - by_zero / step
            slopes = {
                "l": by_low * least * sl * (1 - sl),
                "u": by_step / top * most * su * (1 - su),
            }
            optimizer.step(own, slopes, rate)
        *_, step, zero, code = rows()
        return step * (np.clip(code, 0, top) - zero)

    return units(examples, iterations, batch, fit)


def pv_tuning(submission, bits, moved, lr, wd, beta2, head_lr):
    """Grids by AdamW, and few whole numbers a step (arXiv 2405.14852, algorithm 1)."""
    weights, latent, own = nets.start(), nets.start(), {}
    optimizer, plain = Adam(beta2=beta2), Adam(beta1=0.0, beta2=beta2)
    top, changes = 2**bits - 1, 0
    for n in HIDDEN:
        w = latent[n]
        own["low", n] = w.min(1, keepdims=True)
        own["step", n] = (w.max(1, keepdims=True) - own["low", n]) / top
    q = {n: np.round((latent[n] - own["low", n]) / own["step", n]) for n in HIDDEN}

    def dense():
        return {n: own["low", n] + own["step", n] * q[n] for n in HIDDEN}

    for t, batch in zip(range(STEPS), nets.batches()):
        g, grids = gradients(latent | dense(), *batch), {}
        for n in HIDDEN:
            grids["low", n] = g[n].sum(1, keepdims=True)
            grids["step", n] = (g[n] * q[n]).sum(1, keepdims=True)
        plain.step(latent, {n: g[n] for n in HIDDEN}, lr * rate(t), wd)
        optimizer.step(latent, {n: v for n, v in g.items() if n not in HIDDEN}, lr * rate(t), wd)
        optimizer.t -= 1
        optimizer.step(own, grids, head_lr * rate(t), wd)
        now = dense()
        for n in HIDDEN:
            place = (latent[n] - own["low", n]) / own["step", n]
            new = np.clip(np.round(place), 0, top)
            gap = np.where(new != q[n], np.abs(latent[n] - now[n]), -1.0).ravel()
            order = [j for j in np.argsort(-gap)[: int(moved * gap.size)] if gap[j] >= 0]
            flat = q[n].ravel().copy()
            flat[order] = new.ravel()[order]
            q[n], changes = flat.reshape(q[n].shape), changes + len(order)
    assert changes
    assert weights.keys() == latent.keys()
    return latent | dense()


FIT = {"bits": 2, "examples": 24, "unit": "matrix", "iterations": 40, "batch": 6}
FORMULAS = [
    Row("ternary", ternary, {**BASE, "kind": "ternary", "scope": "row", "warm": 0.4}, package=""),
    Row("ternary", ternary, {**BASE, "kind": "ternary", "scope": "matrix", "warm": 0.4},
        package="", label="matrix"),
    Row("ternary", ternary, {**BASE, "kind": "binary", "scope": "row", "warm": 0.4}, package="",
        label="binary"),
    Row("ternary", ternary, {**BASE, "kind": "bitnet", "scope": "matrix", "warm": 0.4},
        package="", label="bitnet"),
    Row("lsq", lsq, {**OWN, "bits": 3, "scope": "row", "head_lr": 0.002}, package=""),
    Row("lsq", lsq, {**OWN, "bits": 3, "scope": "matrix", "head_lr": 0.002}, package="",
        label="matrix"),
    Row("llm_qat", llm_qat, {**OWN, "bits": 4}, package=""),
    Row("adaround", adaround, {**FIT, "rate": 0.05, "regular": 0.02}, package="", float64=1e-9),
    Row("omniquant", omniquant, {**FIT, "rate": 0.05}, package="", float64=1e-9),
    Row("pv_tuning", pv_tuning, {**OWN, "bits": 3, "moved": 0.05, "head_lr": 0.002}, package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
def test_a_rounding_method_equals_its_formula(row):
    submission = nets.submitted(row.submission, **row.hp)
    second = row.second(submission, **row.hp)
    assert nets.difference(nets.run(submission), second) <= row.float64


@pytest.mark.parametrize("name", ["brecq", "cbq"])
def test_blocks_are_rounded_to_grids_and_lose_less_than_to_nearest(name):
    """Over the examples that the rounding has seen; four blocks' outputs at the end."""
    losses = {}
    for each, more in (("rtn", {}), (name, {"examples": 24, "iterations": 150, "batch": 24})):
        submission = nets.submitted(each, bits=2, **more)
        weights = nets.run(submission, 1)
        for n in HIDDEN:
            points = grid(nets.start()[n], 2)
            gap = np.abs(weights[n][:, :, None] - points[:, None]).min(2)
            assert gap.max() < 1e-12
        x = calibration(24)
        exact, ours = nets.forward(nets.start(), x)[1][-1], nets.forward(weights, x)[1][-1]
        losses[each] = ((exact - ours) ** 2).mean()
    assert losses[name] < 0.9 * losses["rtn"]


def test_lsq_and_pv_tuning_hand_over_grids():
    for name in ("lsq", "pv_tuning"):
        submission = nets.submitted(name, bits=2, lr=0.02)
        weights = nets.run(submission, 5)
        assert len(modules(submission)) == len(HIDDEN)
        for n in HIDDEN:
            assert max(len(np.unique(row.round(12))) for row in weights[n]) <= 4
        assert surgery.matrices(submission.task.model)
