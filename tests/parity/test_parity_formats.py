"""Methods that store weights in a format follow a second implementation, step by step.

On the network of tests/support/nets.py, in float64, as tests/parity/test_parity_sparse.py does.
"""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from harness import surgery
from harness.race import stored_bits
from submissions.quantized import awq, codebook, hqq, mx, nf4
from tests.parity.test_parity import Row
from tests.parity.test_parity_sparse import BASE, ranked_together
from tests.support import nets
from tests.support.nets import HIDDEN, STEPS, Adam, gradients, rate


def through(rounded, base_lr, base_wd):
    """AdamW on the weights, with the gradient at the rounded ones."""
    weights, optimizer = nets.start(), Adam()
    for t, batch in zip(range(STEPS), nets.batches()):
        g = gradients(weights | {n: rounded(weights[n]) for n in HIDDEN}, *batch)
        optimizer.step(weights, g, base_lr * rate(t), base_wd)
    return weights | {n: rounded(weights[n]) for n in HIDDEN}


def closest(points, values):
    return points[np.abs(points - values[..., None]).argmin(-1)]


def normal_float(submission, stored, **hp):
    """Quantiles of the normal distribution, 2^(b-1) below zero and one less above (2305.14314)."""
    bits = int(stored - 0.5)
    half = 2 ** (bits - 1)
    edge = (1 / (2 * 2**bits) + 1 / (2 * (2**bits - 1))) / 2
    place = np.linspace(1 - edge, 0.5, half + 1)[:-1], np.linspace(1 - edge, 0.5, half)[:-1]
    points = np.concatenate([norm.ppf(place[0]), [0.0], -norm.ppf(place[1])]) / norm.ppf(1 - edge)

    def rounded(w):
        largest = np.abs(w).max(1, keepdims=True)
        return largest * closest(points, w / largest)

    return through(rounded, **hp)


def microscaled(submission, stored, element, **hp):
    """The nearest point of a list, times 2^(⌊log2 max⌋ − e) (2310.10537)."""
    bits = int(stored - 0.25)
    if element == "e2m1":
        points, top = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6]), 2
    else:
        points, top = np.arange(2 ** (bits - 1)) / 2 ** (bits - 2), 0
    points = np.concatenate([-points[::-1], points])

    def rounded(w):
        scale = 2.0 ** (np.floor(np.log2(np.abs(w).max(1, keepdims=True))) - top)
        return scale * closest(points, w / scale)

    return through(rounded, **hp)


def shared(submission, stored, importance, batches, rounds, base_lr, base_wd):
    """k-means from even places, then shared values that train (1510.00149, 2306.07629)."""
    weights, stream, optimizer = nets.start(), nets.batches(), Adam()
    f = {n: np.ones(weights[n].shape) for n in HIDDEN}
    if importance == "fisher":
        seen = [gradients(weights, *next(stream)) for _ in range(batches)]
        f = {n: np.mean([g[n] ** 2 for g in seen], axis=0) for n in HIDDEN}
    books, codes = {}, {}
    for n in HIDDEN:
        w, values = weights[n].ravel(), np.linspace(weights[n].min(), weights[n].max(), 8)
        for _ in range(rounds):
            near = np.abs(w[:, None] - values).argmin(1)
            for k in set(near):
                mine = near == k
                values[k] = np.average(w[mine], weights=f[n].ravel()[mine])
            values.sort()
        books[n], codes[n] = values, np.abs(w[:, None] - values).argmin(1)
    assert int(stored - 0.5) == 3
    for t, batch in zip(range(STEPS), stream):
        dense = {n: books[n][codes[n]].reshape(weights[n].shape) for n in HIDDEN}
        g = gradients(weights | dense, *batch)
        own = {n: np.bincount(codes[n], g[n].ravel(), 8) for n in HIDDEN}
        optimizer.step(books, own, base_lr * rate(t), base_wd)
        optimizer.t -= 1
        rest = {n: v for n, v in g.items() if n not in HIDDEN}
        optimizer.step(weights, rest, base_lr * rate(t), base_wd)
    return weights | {n: books[n][codes[n]].reshape(weights[n].shape) for n in HIDDEN}


def half_quadratic(submission, stored, power, beta, rounds):
    """The offset by proximal steps, row by row; the best round's."""
    weights, most = nets.start(), 2 ** int(stored - 0.5) - 1
    for n in HIDDEN:
        for i, w in enumerate(weights[n]):
            s = most / (w.max() - w.min())
            z, kept, least = -w.min() * s, None, math.inf
            for _ in range(rounds + 1):
                q = np.clip(np.round(w * s + z), 0, most)
                r = (q - z) / s
                if np.abs(w - r).mean() < least * (1 - 1e-9):
                    kept, least = r, np.abs(w - r).mean()
                gap = w - r
                pull = np.maximum(np.abs(gap), 1e-12) ** (power - 1) / beta
                e = np.sign(gap) * np.maximum(np.abs(gap) - pull, 0)
                z = np.mean(q - (w - e) * s)
            weights[n][i] = kept
    return weights


def pruned(submission, bits, sparsity, **hp):
    """The mask of the largest weights, and symmetric grids of what it leaves."""
    masks = ranked_together({n: np.abs(w) for n, w in nets.start().items()}, sparsity)
    weights, optimizer = nets.start(), Adam()
    weights |= {n: weights[n] * masks[n] for n in HIDDEN}

    def rounded(w):
        step = np.abs(w).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
        return np.where(w == 0, 0.0, step * np.round(w / np.where(step > 0, step, 1.0)))

    for t, batch in zip(range(STEPS), nets.batches()):
        g = gradients(weights | {n: rounded(weights[n]) for n in HIDDEN}, *batch)
        g |= {n: g[n] * masks[n] for n in HIDDEN}
        optimizer.step(weights, g, hp["base_lr"] * rate(t), hp["base_wd"])
    return weights | {n: rounded(weights[n]) for n in HIDDEN}


KMEANS = {**BASE, "stored": 3.7, "batches": 3, "rounds": 6}
FORMULAS = [
    Row("nf4", normal_float, {**BASE, "stored": 4.6}, package="", label="4"),
    Row("nf4", normal_float, {**BASE, "stored": 3.6}, package="", label="3"),
    Row("mxfp4", microscaled, {**BASE, "stored": 4.6, "element": "e2m1"}, package=""),
    Row("mxint", microscaled, {**BASE, "stored": 4.6, "element": "integer"}, package=""),
    Row("mx", microscaled, {**BASE, "stored": 3.6, "element": "integer"}, package=""),
    Row("codebook", shared, {**KMEANS, "importance": "even"}, package=""),
    Row("squeezellm", shared, {**KMEANS, "importance": "fisher"}, package=""),
    Row("pruned_ste", pruned, {**BASE, "bits": 3, "sparsity": 0.5}, package=""),
    Row("hqq", half_quadratic, {"stored": 3.6, "power": 0.7, "beta": 10.0, "rounds": 20},
        package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
def test_storage_method_equals_its_formula(row):
    submission = nets.submitted(row.submission, **row.hp)
    second = row.second(submission, **row.hp)
    assert nets.difference(nets.run(submission), second) <= row.float64


def test_levels_of_four_bits_are_the_published_ones():
    """The table of QLoRA's appendix E."""
    published = [
        -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
        0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
    ]  # fmt: skip
    torch.testing.assert_close(
        nf4.levels(4, torch.zeros(1)), torch.tensor(published), atol=1e-6, rtol=0
    )


ROUNDED = {
    "nf4": lambda w: nf4.normal_float(nf4.grouped(w), 4).view_as(w),
    "mxfp4": lambda w: mx.rounded(w.view(-1, 32), "e2m1", 4).view_as(w),
    "mxint": lambda w: mx.rounded(w.view(-1, 32), "integer", 4).view_as(w),
    "hqq": lambda w: hqq.rounded(nf4.grouped(w), 4).view_as(w),
    "awq": lambda w: awq.rounded(w, 4),
    "codebook": lambda w: (lambda b, c: b[c].view_as(w))(*codebook.clustered(w, w * 0 + 1, 4, 20)),
}


@pytest.mark.parametrize("name", sorted(ROUNDED))
@pytest.mark.parametrize("shape", [(64, 64), (192, 64), (64, 256)])
def test_the_referee_finds_the_format(name, shape):
    """Matrices of the shapes that are raced cost at most what stored_4 allows."""
    w = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    assert stored_bits.stored_bits([ROUNDED[name](w)]) <= 4.6
    assert stored_bits.stored_bits([w]) == 32


def test_kmeans_is_as_good_as_the_best_partition():
    """In one dimension the best clusters are intervals: dynamic programming finds them all."""
    w = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values, codes = codebook.clustered(w, torch.ones_like(w), 2, 50)
    x = w.sort().values.numpy()
    cost = lambda i, j: ((x[i:j] - x[i:j].mean()) ** 2).sum()  # noqa: E731
    best = [cost(0, j) if j else 0.0 for j in range(41)]
    for _ in range(3):
        best = [
            min([best[i] + (cost(i, j) if j > i else 0) for i in range(j + 1)]) for j in range(41)
        ]
    found = float((w - values[codes]).square().sum())
    assert best[-1] <= found <= 1.3 * best[-1]
    one = torch.linspace(float(w.min()), float(w.max()), 4, dtype=torch.float64)
    assert found < float((w[:, None] - one).abs().min(1).values.square().sum())


def test_hqq_beats_rounding_to_nearest_in_its_own_norm():
    w = torch.randn(32, 64, generator=torch.Generator().manual_seed(3)) ** 3
    found, plain = hqq.rounded(w, 3), hqq.rounded(w, 3, rounds=0)
    error = lambda r: float((w - r).abs().pow(0.7).mean())  # noqa: E731
    assert error(found) < error(plain)
    assert surgery.matrices(nets.Net())
