"""Methods for low-rank matrices follow a second implementation, and recover a planted matrix.

Completion of a 40 x 40 matrix of rank 2 from 60 % of its entries, f = Σ_seen (LRᵀ − M)²/(2·share).
The numpy loops are written from the papers' rules, with dense matrices and exact decompositions.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.errors import UserError
from harness.laws import small_workloads
from tests.parity.test_parity import Row
from tests.support import nets


class Problem:
    """The data and the start of the small completion, as arrays."""

    def __init__(self):
        task = small_workloads.read("matrix_completion").task()
        data, self.share = task._data, task._config.data.share
        self.seen, self.values = data["seen"].numpy(), data["values"].numpy()
        self.left, self.right = (p.detach().numpy().copy() for p in task.params)
        self.rank, self.horizon = self.left.shape[1], task.horizon

    def z(self, x):
        """The gradient by the matrix."""
        return self.seen * (x - self.values) / self.share

    def square(self, d):
        """‖A(d)‖²."""
        return (self.seen * d**2).sum() / self.share

    def loss(self, x):
        return (self.seen * (x - self.values) ** 2).sum() / (2 * self.share)


def cut(x, rank):
    u, s, vt = np.linalg.svd(x)
    return u[:, :rank], s[:rank], vt[:rank].T


def spectral(problem):
    u, s, v = cut(problem.seen * problem.values / problem.share, problem.rank)
    return (u * s) @ v.T


def apgd(steps, lr):
    p = Problem()
    left, right = p.left, p.right
    for _ in range(steps):
        left = left - lr * p.z(left @ right.T) @ right @ np.linalg.inv(right.T @ right)
        right = right - lr * p.z(left @ right.T).T @ left @ np.linalg.inv(left.T @ left)
    return left @ right.T


def asd(steps, scaled):
    p = Problem()
    left, right = p.left, p.right
    for _ in range(steps):
        g = p.z(left @ right.T) @ right
        d = g @ np.linalg.inv(right.T @ right) if scaled else g
        left = left - (d * g).sum() / p.square(d @ right.T) * d
        g = p.z(left @ right.T).T @ left
        d = g @ np.linalg.inv(left.T @ left) if scaled else g
        right = right - (d * g).sum() / p.square(left @ d.T) * d
    return left @ right.T


def asymmetric_fix(steps, lr, when, beta):
    p = Problem()
    left, right, first, done = p.left, p.right, p.loss(p.left @ p.right.T), False
    for _ in range(steps):
        x = left @ right.T
        if not done and p.loss(x) <= when * first:
            b = beta * np.sqrt(np.linalg.svd(x)[1][0])
            u, s, vt = np.linalg.svd(left, full_matrices=False)
            left, right, done = b * u @ vt, right @ vt.T @ np.diag(s) @ vt / b, True
            assert np.abs(left @ right.T - x).max() < 1e-14
            assert np.abs(left.T @ left - b**2 * np.eye(p.rank)).max() < 1e-14
        else:
            z = p.z(x)
            left, right = left - lr * z @ right, right - lr * z.T @ left
    assert done
    return left @ right.T


def scaled_subgradient(steps, lr, final, damping):
    p = Problem()
    left, right, ridge = p.left, p.right, damping * np.eye(p.rank)
    for t in range(steps):
        z, rate = p.z(left @ right.T), lr * final ** ((t + 0.5) / p.horizon)
        new = left - rate * z @ right @ np.linalg.inv(right.T @ right + ridge)
        right = right - rate * z.T @ left @ np.linalg.inv(left.T @ left + ridge)
        left = new
    return left @ right.T


def niht(steps, step, lr, sweeps):
    p = Problem()
    x = np.zeros_like(p.values)
    for t in range(steps):
        z, rate = p.z(x), lr if step == "fixed" else 1.0
        if step == "normalised" and t:
            u = cut(x, p.rank)[0]
            rate = np.linalg.norm(u.T @ z) ** 2 / p.square(u @ u.T @ z)
        u, s, v = cut(x - rate * z, p.rank)
        x = (u * s) @ v.T
    return x


def rgd(steps, conjugate, sweeps):
    p = Problem()
    x, last = spectral(p), None
    for _ in range(steps):
        z, (u, _, v) = p.z(x), cut(x, p.rank)
        onto = lambda m, u=u, v=v: u @ u.T @ m + m @ v @ v.T - u @ u.T @ m @ v @ v.T  # noqa: E731
        g = onto(z)
        d = -g
        if conjugate and last is not None:
            before = onto(last)
            sizes = np.linalg.norm(g), np.linalg.norm(before)
            orthogonal = abs((g * before).sum()) / (sizes[0] * sizes[1]) < 0.1
            if orthogonal and sizes[0] / sizes[1] < 1:
                d = d - (p.seen * d * before).sum() / (p.seen * before**2).sum() * before
        last = d
        u, s, v = cut(x - (g * d).sum() / p.square(d) * d, p.rank)
        x = (u * s) @ v.T
    return x


def gnmr(steps, form, inner, tolerance):
    p = Problem()
    u, s, v = cut(p.seen * p.values / p.share, p.rank)
    left, right, seen = u * np.sqrt(s), v * np.sqrt(s), p.seen.astype(bool)
    n = len(left)
    for _ in range(steps):
        columns = []
        for basis in np.eye(2 * n * p.rank):
            a, b = basis.reshape(2, n, p.rank)
            columns.append((left @ b.T + a @ right.T)[seen])
        alpha = 1 if form == "setting" else -1
        goal = (p.values + alpha * left @ right.T)[seen]
        found = np.linalg.lstsq(np.array(columns).T, goal, rcond=1e-9)[0].reshape(2, n, p.rank)
        left, right = ((1 - alpha) / 2 * f + new for f, new in zip((left, right), found))
    return left @ right.T


def irls(steps, inner, tolerance, sweeps):
    p = Problem()
    seen, n = p.seen.astype(bool).ravel(), len(p.left)
    x, e = p.seen * p.values, np.inf
    u = v = s = over = np.zeros(0)
    y = p.values.ravel()[seen]
    for t in range(steps):
        if t:
            weights = []
            for basis in (u, v):
                top = basis[:, over]
                weights.append(e * np.eye(n) + (top * (s[over] - e)) @ top.T)
            inverse = np.kron(*weights)
            z = np.linalg.solve(inverse[np.ix_(seen, seen)], y)
            x = (inverse[:, seen] @ z).reshape(n, n)
        u, s, v = cut(x, p.rank + 1)
        e = min(e, s[p.rank])
        over = s > e
    return (u[:, : p.rank] * s[: p.rank]) @ v[:, : p.rank].T


def svt(steps, tau, size, kept, sweeps):
    p = Problem()
    back = p.seen * p.values / p.share
    top = np.linalg.norm(back, 2)
    dual = np.ceil(tau / size) * size * back
    for _ in range(steps):
        u, s, v = cut(dual, len(back))
        x = (u * np.maximum(s - tau * top, 0)) @ v.T
        dual = dual - size * p.z(x)
    u, s, v = cut(x, p.rank)
    return (u * s) @ v.T


def robust_altmin(steps, rows, inner):
    p = Problem()
    factors, generator = [p.left, p.right], nets.draws()
    for t in range(steps):
        seen = p.seen.T if t % 2 else p.seen
        values = p.values.T if t % 2 else p.values
        factor, partner = factors[t % 2], factors[1 - t % 2]
        where = torch.randint(rows, (len(partner),), generator=generator).numpy()
        sign = 1 - 2 * torch.randint(2, (len(partner),), generator=generator).numpy()
        sketch = np.zeros((rows, len(partner)))
        sketch[where, np.arange(len(partner))] = sign
        for i, row in enumerate(factor):
            r = np.linalg.qr(sketch @ (seen[i][:, None] * partner) / np.sqrt(p.share))[1]
            for _ in range(inner):
                g = (seen[i] * (partner @ row - values[i]) / p.share) @ partner
                row = row - np.linalg.solve(r.T @ r, g)
            factor[i] = row
    return factors[0] @ factors[1].T


STEPS = 8
ROWS = [
    Row("apgd", apgd, {"lr": 0.7}),
    Row("asd", asd, {"scaled": False}),
    Row("asd", asd, {"scaled": True}, label="scaled"),
    Row("asymmetric_fix", asymmetric_fix, {"lr": 1.0, "when": 0.9, "beta": 0.7}),
    Row("scaled_subgradient", scaled_subgradient, {"lr": 0.3, "final": 1e-3, "damping": 0.01}),
    Row("niht", niht, {"step": "normalised", "lr": 0.0, "sweeps": 60}, float64=1e-7),
    Row("niht", niht, {"step": "fixed", "lr": 0.8, "sweeps": 60}, float64=1e-7, label="svp"),
    Row("rgd", rgd, {"conjugate": False, "sweeps": 200}, float64=1e-8),
    Row("rgd", rgd, {"conjugate": True, "sweeps": 200}, float64=1e-8, label="rcg"),
    Row("gnmr", gnmr, {"form": "updating", "inner": 400, "tolerance": 1e-13}, float64=1e-6),
    Row("gnmr", gnmr, {"form": "setting", "inner": 400, "tolerance": 1e-13}, float64=1e-4,
        label="setting"),
    Row("irls", irls, {"inner": 400, "tolerance": 1e-13, "sweeps": 200}, float64=1e-6),
    Row("svt", svt, {"tau": 1.5, "size": 1.2, "kept": 40, "sweeps": 30}, float64=1e-8),
    Row("robust_altmin", robust_altmin, {"rows": 32, "inner": 3}, float64=1e-9),
]  # fmt: skip


def made(name, **hp):
    task = small_workloads.read("matrix_completion").task()
    return nets.submitted(name, task, **hp)


def product(weights):
    return weights["left"] @ weights["right"].T


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_factor_method_equals_its_formula(row):
    steps = 3 if row.submission == "gnmr" else STEPS
    found = product(nets.run(made(row.submission, **row.hp), steps))
    second = row.second(steps, **row.hp)
    assert np.abs(found - second).max() <= row.float64 * np.abs(second).max()


@pytest.mark.parametrize(
    "name", ["scaled_asd", "niht", "rgd", "rcg", "gnmr", "irls", "robust_altmin"]
)
def test_a_planted_matrix_is_recovered(name):
    submission = made(name)
    x = product(nets.run(submission, 40))
    config = submission.task._config
    truth = small_workloads._loaded(small_workloads.read("matrix_completion"))[0].data(
        config, "val"
    )["truth"]
    assert np.linalg.norm(x - truth.numpy()) < 1e-6 * np.linalg.norm(truth)


@pytest.mark.parametrize("name", ["apgd", "scaled_asd"])
def test_the_product_does_not_depend_on_how_it_is_split(name):
    """(L, R) → (LQ, RQ⁻ᵀ), the equivariance of preconditioned methods."""
    plain, turned = made(name), made(name)
    q = torch.tensor([[2.0, 1.0], [-0.5, 0.3]], dtype=torch.float64)
    left, right = turned.task.params
    left.data.copy_(left.data @ q)
    right.data.copy_(right.data @ torch.linalg.inv(q).T)
    a, b = (product(nets.run(each, 10)) for each in (plain, turned))
    assert np.abs(a - b).max() < 1e-9


@pytest.mark.parametrize("name", ["niht", "rgd", "gnmr", "irls", "apgd"])
def test_a_model_that_is_no_product_of_two_is_refused_in_words(name):
    with pytest.raises(UserError, match="exactly two factors"):
        nets.submitted(name)


def test_measurements_of_a_matrix_are_read_off_a_batch():
    """Gaussian measurements: the loss, and its gradient by the matrix, are the workload's."""
    from submissions.matrix import _operator
    from workloads import matrix_asymmetric as workload

    data = {"rows": 6, "columns": 5, "rank": 2, "kappa": 2.0, "measurements": 20, "noise": 0.1}
    model = {"rank": 3, "init_scale": 0.5, "imbalance": 1.0}
    config = SimpleNamespace(data=SimpleNamespace(**data), model=SimpleNamespace(**model))
    batch, net = workload.data(config, "train"), workload.model(config)
    loss = workload.loss(net, batch)
    loss.backward()
    measure = _operator.Operator(batch, (6, 5))
    apart = measure(net().detach()) - measure.y
    assert torch.allclose(apart.square().sum() / 2, loss.detach(), rtol=1e-12)
    z = measure.adjoint(apart)
    assert torch.allclose(z @ net.right.detach(), net.left.grad, rtol=1e-10)
    with pytest.raises(UserError, match="all measurements"):
        _operator.Operator(batch, (4, 5))
