"""Second-order methods of the second wave follow float64 loops with whole matrices in numpy.

Form (b) runs on the gradients of test_parity, form (c) on the small logistic regression of the
laws, whose Hessian is written out.
"""

import numpy as np
import pytest
import torch

from tests.parity.test_parity import ADAM, SHAPES, STEPS, Row
from tests.parity.test_parity_listings import followed
from tests.workloads.test_theory import Logistic, advance, at_work, flat, task_of


def joined(tensors):
    return np.concatenate([x.ravel() for x in tensors])


def write(params, vector):
    """Put a flat vector into the list of arrays."""
    parts = np.split(vector, np.cumsum([p.size for p in params])[:-1])
    params[:] = [part.reshape(p.shape) for part, p in zip(parts, params)]


def root_step(columns, x, eps):
    """((GGᵀ)^(1/2) + εI)⁻¹x from the singular value decomposition of G."""
    u, s, _ = np.linalg.svd(np.stack(columns, axis=1), full_matrices=False)
    u, s = u[:, s > 1e-6 * s.max()], s[s > 1e-6 * s.max()]
    return x / eps + u @ ((1 / (s + eps) - 1 / eps) * (u.T @ x))


def ggt(params, grads, lr, wd, beta1, beta2, eps, history):
    """Algorithm 1 of arXiv 1806.02958 with momentum."""
    m, past = 0.0, []
    for t in range(STEPS):
        g = joined(grads(t, params))
        m, past = beta1 * m + (1 - beta1) * g, [*past, g][-history:]
        columns = [beta2**age * x for age, x in enumerate(reversed(past))]
        p = (1 - lr * wd) * joined(params) - lr * root_step(columns, m, eps)
        write(params, p)


def efcp(params, grads, lr, wd, curvature, damping, density, history):
    """Algorithm 1 of arXiv 2306.06098, the window as whole vectors."""
    e, past = [0.0 * p for p in params], []
    for t in range(STEPS):
        sent = []
        for i, g in enumerate(grads(t, params)):
            e[i] = e[i] + g + wd * params[i]
            count = max(1, round(density * g.size))
            cut = np.sort(np.abs(e[i]).ravel())[-count]
            sent.append(np.where(np.abs(e[i]) >= cut, e[i], 0.0))
            e[i] = e[i] - sent[-1]
        x = joined(sent)
        past = [*past, x][-history:]
        if curvature == "ggt":
            root = damping**0.5
            step = root * root_step([y / history**0.5 for y in past], x, root)
        else:
            fisher = sum(np.outer(y, y) for y in past) / history
            step = damping * np.linalg.solve(fisher + damping * np.eye(len(x)), x)
        write(params, joined(params) - lr * step)


def psgd_lra(params, grads, lr, wd, form, rank, momentum, fit_lr):
    """Fitting of Q on the groups of arXiv 2211.04422 and 2402.11858, with Q written out."""
    torch.manual_seed(0)
    size, m = joined(params).size, 0.0
    if form == "lra":
        u, v = (torch.randn(size, rank).double().numpy() * (rank * size) ** -0.5 for _ in range(2))
    for t in range(1, STEPS + 1):
        h = joined(grads(t - 1, params))
        m = momentum * m + (1 - momentum) * h
        x = torch.randn(size, dtype=torch.float64).numpy()
        coins = torch.rand(2).tolist()
        if t == 1:
            d, b = np.full(size, (h**2).mean() ** -0.25), np.zeros(size)
        if form == "lra":
            if coins[0] < 0.01:
                ratio = np.sqrt(np.linalg.norm(u) / np.linalg.norm(v))
                u, v = u / ratio, v * ratio
            q = (np.eye(size) + u @ v.T) @ np.diag(d)
            d, u, v = lra_moved(q, d, u, v, h, x, fit_lr, coins[1])
            q = (np.eye(size) + u @ v.T) @ np.diag(d)
        else:
            q = np.diag(d) + np.diag(b)[:, ::-1]
            a, w = q @ h, np.linalg.solve(q.T, x)
            whole = np.outer(a, a) - np.outer(w, w)
            mirrored = np.diag(whole[:, ::-1]).copy()
            if size % 2:
                mirrored[size // 2] = 0.0
            shape = np.diag(np.diag(whole)) + np.diag(mirrored)[:, ::-1]
            q = q - fit_lr / (a**2 + w**2).max() * shape @ q
            b = np.diag(q[:, ::-1]).copy()
            d = np.diag(q).copy()
            if size % 2:
                # The middle of both diagonals is one entry: it belongs to d alone.
                b[size // 2] = 0.0
        way = q.T @ q @ m / (1 - momentum**t)
        way = way * min(1.0, 1.1 / (np.sqrt((way**2).mean()) + 1e-6))
        write(params, (1 - lr * wd) * joined(params) - lr * way)


def lra_moved(q, d, u, v, h, x, rate, coin):
    """The next d, U and V, from the whole matrices P and Q."""
    p, eye = q.T @ q, np.eye(len(h))
    a, b = q @ h, np.linalg.solve(q.T, x)
    slope = (p @ h) * h - x * np.linalg.solve(p, x)
    pull = np.outer(a, a) - np.outer(b, b)

    def size(s):
        along = np.linalg.norm(a) * np.linalg.norm(s @ s.T @ a)
        return along + np.linalg.norm(b) * np.linalg.norm(s @ s.T @ b)

    new = d - rate / np.abs(slope).max() * d * slope
    if coin < 0.5:
        return new, u - rate / size(v) * pull @ v @ (np.eye(u.shape[1]) + v.T @ u), v
    return new, u, v - rate / size(u) * (eye + v @ u.T) @ pull @ u


def coded(x):
    """A matrix after four bits an entry: columns in blocks of 64, the nearest of sixteen levels."""
    levels = np.array([np.sign(t) * t * t for t in np.linspace(-1, 1, 16)])
    levels[7], flat = 0.0, x.T.ravel()
    for first in range(0, len(flat), 64):
        block = flat[first : first + 64]
        scale = np.abs(block).max()
        near = np.abs(block[:, None] / (scale or 1.0) - levels).argmin(1)
        flat[first : first + 64] = levels[near] * scale
    return flat.reshape(x.T.shape).T


def mended(v, times):
    for _ in range(times):
        v = 1.5 * v - 0.5 * v @ v.T @ v
    return v


def shampoo_4bit(params, grads, lr, wd, beta1, beta2, eps, bits, every, above):
    """Algorithms 3 and 4 of arXiv 2405.18144 with AdamW as the base."""
    code = coded if bits == 4 else np.array
    sides = [[np.eye(n) for n in p.shape] for p in params]
    values = [[np.full(n, 1e-6) for n in p.shape] for p in params]
    roots = [[np.eye(n) for n in p.shape] for p in params]
    m, v = [0.0 * p for p in params], [0.0 * p for p in params]
    for t in range(1, STEPS + 1):
        for i, g in enumerate(grads(t - 1, params)):
            for k, statistic in enumerate((g @ g.T, g.T @ g)):
                if t % every:
                    continue
                old = mended(sides[i][k], bits == 4)
                whole = 0.95 * old @ np.diag(values[i][k]) @ old.T + 0.05 * statistic
                q = np.linalg.qr(whole @ old)[0]
                values[i][k] = np.maximum(np.diag(q.T @ whole @ q), 0.0)
                sides[i][k] = code(q)
                if t % (5 * every) == 0:
                    q = mended(sides[i][k], 4 * (bits == 4))
                    lam = values[i][k] + 1e-6 * values[i][k].max() + 1e-30
                    root = q @ np.diag(lam**-0.25) @ q.T
                    diagonal = np.diag(np.diag(root))
                    roots[i][k] = diagonal + code(root - diagonal)
            u = roots[i][0] @ g @ roots[i][1]
            u = u * np.linalg.norm(g) / (np.linalg.norm(u) + 1e-12)
            m[i] = beta1 * m[i] + (1 - beta1) * u
            v[i] = beta2 * v[i] + (1 - beta2) * u * u
            step = (m[i] / (1 - beta1**t)) / (np.sqrt(v[i] / (1 - beta2**t)) + eps)
            params[i] = (1 - lr * wd) * params[i] - lr * step


def sst(params, grads, lr, share, every, beta1, beta2):
    """Algorithm 1 of arXiv 2405.15481 with a draw every few steps."""
    torch.manual_seed(0)
    parts, moments, decomposed = [np.linalg.svd(p, full_matrices=False) for p in params], {}, 0
    parts = [[u, s, v.T] for u, s, v in parts]

    def adam(key, g, t):
        m, v = moments.get(key, (0.0, 0.0)) if t > 1 else (0.0, 0.0)
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        moments[key] = m, v
        return (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + 1e-8)

    for t in range(STEPS):
        for i, g in enumerate(grads(t, params)):
            u, s, v = parts[i]
            count, since = max(1, round(share * len(s))), t % every
            if since == 0:
                chance = torch.from_numpy(0.5 / len(s) + 0.5 * s / s.sum())
                moments["drawn", i] = torch.multinomial(chance, count).numpy()
            slow = min(1.0, (since + 1) / max(1, every // 5))
            drawn, to_u, to_v = moments["drawn", i], g @ v, g.T @ u
            s = np.maximum(s - lr * adam(("S", i), np.diag(u.T @ g @ v), t + 1), 0.0)
            for side, factor, slope in (("U", u, to_u), ("V", v, to_v)):
                moved = factor[:, drawn] - slow * lr * adam((side, i), slope[:, drawn], since + 1)
                factor[:, drawn] = moved / np.linalg.norm(moved, axis=0)
            params[i], parts[i] = u @ np.diag(s) @ v.T, [u, s, v]
            if since == every - 1 and (t // every + 1) % -(-len(s) // count) == 0:
                left, values, right = np.linalg.svd(params[i], full_matrices=False)
                parts[i], decomposed = [left, values, right.T], decomposed + 1
    assert decomposed


WINDOW = {"lr": 0.1, "history": 16}
LRA = {"lr": 0.01, "wd": 0.1, "rank": 2, "momentum": 0.9, "fit_lr": 0.1}
ODD = [(4, 3), (3,)]
FORMULAS = [
    Row("ggt", ggt,
        {"lr": 0.01, "history": 16, "wd": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 0.1},
        package="", float64=1e-9),
    Row("efcp", efcp,
        {**WINDOW, "wd": 0.01, "curvature": "mfac", "damping": 0.1, "density": 0.1}, package="",
        float64=1e-9),
    Row("efcp", efcp,
        {**WINDOW, "wd": 0.01, "curvature": "ggt", "damping": 0.1, "density": 0.1}, package="",
        label="ggt", float64=1e-9),
    Row("psgd_lra", psgd_lra, {**LRA, "form": "lra"}, package="", float64=1e-9),
    Row("psgd_lra", psgd_lra, {**LRA, "form": "xmat"}, package="", shapes=ODD, label="xmat",
        float64=1e-9),
    Row("shampoo_4bit", shampoo_4bit,
        {**ADAM, "bits": 4, "every": 3, "above": 1}, package="", shapes=SHAPES[:2], float64=1e-9),
    Row("shampoo_4bit", shampoo_4bit,
        {**ADAM, "bits": 32, "every": 3, "above": 1}, package="", shapes=SHAPES[:2], label="32",
        float64=1e-9),
    Row("sst", sst, {"lr": 0.02, "share": 0.5, "every": 4, "beta1": 0.9, "beta2": 0.99},
        package="", shapes=SHAPES[:2], float64=1e-9),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
def test_submission_equals_its_formula(row):
    assert followed(row, torch.float64) <= row.float64


class Curved(Logistic):
    """The small logistic regression with its Hessian."""

    def hessian(self, w, index):
        rows, signs = self.rows[index], self.signs[index]
        wrong = 1 / (1 + np.exp(signs * (rows @ w)))
        inner = rows.T @ (rows * (wrong * (1 - wrong))[:, None]) / len(signs)
        return inner + self.model.ridge * np.eye(len(w))


def basis(a, g, count):
    """An orthonormal basis of g, Ag, A²g, ..."""
    columns = []
    for _ in range(count):
        x = g if not columns else a @ columns[-1]
        for _ in range(2):
            x = x - sum((c @ x) * c for c in columns) if columns else x
        columns.append(x / np.linalg.norm(x))
    return np.stack(columns, axis=1)


def test_krylov_gd_equals_its_formula():
    """The minimiser of the quadratic model over span{g, Hg, H²g} (arXiv 2301.13194)."""
    task, other = task_of("logreg"), task_of("logreg")
    hp = {"lr": 0.5, "damping": 1e-9, "warmup": 1e-9}
    sub, problem, w = at_work(task, "krylov_gd", **hp), Curved(task, True), flat(task.params)
    for step in range(10):
        i = other.next_index().numpy()
        g, h = problem.gradient(w, i), problem.hessian(w, i)
        q = basis(h, g, 3)
        rate = 0.5 * (1 + np.cos(np.pi * (step + 0.5) / 60)) / 2
        w = w - rate * q @ np.linalg.solve(q.T @ h @ q, q.T @ g)
        advance(task, sub)
        np.testing.assert_allclose(flat(task.params), w, rtol=1e-7, atol=1e-9)


def test_grn_equals_its_formula():
    """Algorithm 1 of arXiv 2506.13710, a try a step, on the tenth Krylov space."""
    task, other = task_of("logreg"), task_of("logreg")
    sub, problem, w = at_work(task, "grn", gamma=30.0), Curved(task, True), flat(task.params)
    gamma, refused = 30.0, 0
    for _ in range(20):
        i = other.next_index().numpy()
        g = problem.gradient(w, i)
        ridge = np.linalg.norm(g) / (gamma + 1e-8)
        a = problem.hessian(w, i) + ridge * np.eye(13)
        q = basis(a, g, 10)
        there = w - q @ np.linalg.solve(q.T @ a @ q, q.T @ g)
        new = problem.gradient(there, i)
        if problem.loss(w, i) - problem.loss(there, i) >= new @ new / (8 * ridge):
            w, gamma = there, max(2 * gamma, 1e-9)
        else:
            gamma, refused = gamma / 2, refused + 1
        advance(task, sub)
        np.testing.assert_allclose(flat(task.params), w, rtol=1e-6, atol=1e-8)
