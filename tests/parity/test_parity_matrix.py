"""The law of test_parity for matrix, data, distributed and tuning methods, and their limits.

Peers are packages of the methods' authors or pytorch_optimizer; formulas are float64 loops written
from the papers' rules; limits are cases in which a method must equal a simpler one.
"""

import importlib
import importlib.util
import math
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from harness.catalog import discover
from harness.train.task import Task
from tests.parity.test_parity import (
    LOOSE,
    STEPS,
    Regression,
    Row,
    error,
    examples_gradients,
    gradient,
    hyperparameters,
    mean_gradients,
    ours,
    package,
    regression,
    start,
    theirs,
)

MATRICES = [(6, 4), (4, 6)]
SQUARES = [(5, 5), (4, 4)]  # of one gradient, the larger side's statistics would be singular
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64], ids=["float32", "float64"]
)


def inner(name, path, group, **kwargs):
    """A peer of a package that needs transformers to import: only its own modules are loaded."""

    def construct(params):
        spec = importlib.util.find_spec(name)
        kept = {n: sys.modules.get(n) for n in ("transformers", "transformers.utils", name)}
        versions = ModuleType("transformers.utils.versions")
        versions.require_version = lambda *_: None
        bare = ModuleType(name)
        bare.__path__ = list(spec.submodule_search_locations)
        try:
            sys.modules |= {n: ModuleType(n) for n in kept} | {name: bare}
            sys.modules["transformers.utils.versions"] = versions
            module, attribute = path.rsplit(".", 1)
            peer = getattr(importlib.import_module(f"{name}.{module}"), attribute)
        finally:
            for n, module in (kept | {"transformers.utils.versions": None}).items():
                sys.modules.pop(n)
                if module:
                    sys.modules[n] = module
        return peer([{"params": params} | group], no_deprecation_warning=True, **kwargs)

    return construct


def grouped(path, group, **kwargs):
    return lambda params: package("pytorch_optimizer", path, **kwargs)([{"params": params} | group])


LOW = {"lr": 0.05, "wd": 0.1, "rank": 2, "gap": 10, "scale": 0.25, "beta2": 0.99, "eps": 1e-6}
ADAMS = {"lr": 0.05, "betas": (0.9, 0.99), "weight_decay": 0.1, "eps": 1e-6}
GROUP = {"rank": 2, "update_proj_gap": 10, "scale": 0.25, "proj_type": "std"}
FIRA = {"rank": 2, "update_proj_gap": 10, "alpha": 0.25, "proj_type": "std"}
OTHER = {"rank": 2, "update_proj_gap": 10**9, "scale": 0.25, "projection_type": "std"}
SUMS = {"lr": 0.1, "wd": 0.0, "beta1": 0.0, "beta2": 1.0, "graft": False, "every": 1, "eps": 1e-4}
SOAP = {"lr": 0.01, "wd": 0.1, "beta1": 0.95, "beta2": 0.9, "beta_shampoo": 0.95, "every": 5}
KRON = {"lr": 0.01, "wd": 0.1, "momentum": 0.9, "flat": 10**6}

PEERS = [  # the peers take singular vectors in float32 whatever the parameters are
    Row("galore", grouped("GaLore", OTHER, **ADAMS), {**LOW, "gap": 10**9},
        package="pytorch_optimizer", shapes=MATRICES, float64=1e-5),
    Row("fira", grouped("Fira", OTHER, **ADAMS), {**LOW, "gap": 10**9},
        package="pytorch_optimizer", shapes=MATRICES, float32=2e-6, float64=1e-5),
    Row("shampoo", package("pytorch_optimizer", "Shampoo", lr=0.1, matrix_eps=1e-4), SUMS,
        package="pytorch_optimizer", shapes=MATRICES, float64=1e-5),
    Row("soap", package("pytorch_optimizer", "SOAP", lr=0.01, betas=(0.95, 0.9), shampoo_beta=0.95,
        weight_decay=0.1, precondition_frequency=5), SOAP, package="pytorch_optimizer",
        shapes=SQUARES, float32=5e-6, float64=1e-5),
    Row("psgd_kron", package("pytorch_optimizer", "Kron", lr=0.01, weight_decay=0.1,
        balance_prob=0.0, pre_conditioner_update_probability=1.0, precondition_dtype=None), KRON,
        package="pytorch_optimizer", shapes=MATRICES, float32=5e-6, float64=1e-5),
]  # fmt: skip


@pytest.mark.parametrize("row", PEERS, ids=str)
@DTYPES
def test_matrix_method_equals_its_peer(row, dtype):
    try:
        version(row.package)
    except PackageNotFoundError:
        pytest.skip(f"the peer {row.package} is not installed")
    torch.manual_seed(0)
    second = theirs(row, dtype)
    torch.manual_seed(0)
    limit = row.float32 if dtype == torch.float32 else row.float64
    assert error(ours(row, dtype), second) <= limit


# A refresh leaves the moments as they are, so the trajectory hangs on the signs that the SVD gives
# its vectors, and these differ between float32 and float64: the authors' code is met in float32.
REFRESHED = [
    Row("galore", inner("galore_torch", "adamw.AdamW", GROUP, **ADAMS), LOW, package="galore_torch",
        shapes=MATRICES),
    Row("fira", inner("fira", "fira_adamw.AdamW", FIRA, **ADAMS), LOW, package="fira",
        shapes=MATRICES, float32=2e-6),
]  # fmt: skip


@pytest.mark.parametrize("row", REFRESHED, ids=str)
def test_refreshes_fall_on_the_steps_of_the_authors_code(row):
    try:
        version(row.package)
    except PackageNotFoundError:
        pytest.skip(f"the peer {row.package} is not installed")
    assert error(ours(row, torch.float32), theirs(row, torch.float32)) <= row.float32


# Formulas change the list `params` of float64 arrays in place; grads(step, params) is t from 0.


def projected(g, t, gap, rank, kept, i):
    """GaLore's basis at step t, and whether it is on the right."""
    right = g.shape[0] >= g.shape[1]
    if t % gap == 0:
        u, _, vt = (x.numpy() for x in torch.linalg.svd(torch.from_numpy(g), full_matrices=False))
        kept[i] = vt[:rank].T if right else u[:, :rank]
    return kept[i], right


def galore(params, grads, lr, wd, rank, gap, scale, beta2, eps, beta1=0.9, turn=None):
    m, v, kept = {}, {}, {}
    for t in range(STEPS):
        for i, g in enumerate(grads(t, params)):
            basis, right = projected(g, t, gap, rank, kept, i)
            small = g @ basis if right else basis.T @ g
            small = turn(i, small) if turn else small
            m[i] = beta1 * m.get(i, 0.0) + (1 - beta1) * small
            v[i] = beta2 * v.get(i, 0.0) + (1 - beta2) * small**2
            step = m[i] / (np.sqrt(v[i]) + eps)
            step = step * math.sqrt(1 - beta2 ** (t + 1)) / (1 - beta1 ** (t + 1))
            params[i] = params[i] - lr * scale * (step @ basis.T if right else basis @ step)
            params[i] = params[i] - lr * wd * params[i]


def fira(params, grads, lr, wd, rank, gap, scale, beta2, eps, limit=1.01, beta1=0.9):
    """Algorithm 1 of arXiv 2410.01623, with the authors' residual g - scale RP^T."""
    m, v, kept, last = {}, {}, {}, {}
    for t in range(STEPS):
        for i, g in enumerate(grads(t, params)):
            basis, right = projected(g, t, gap, rank, kept, i)
            small = g @ basis if right else basis.T @ g
            m[i] = beta1 * m.get(i, 0.0) + (1 - beta1) * small
            v[i] = beta2 * v.get(i, 0.0) + (1 - beta2) * small**2
            adam = m[i] / (np.sqrt(v[i]) + eps)
            axis = 1 if right else 0
            gain = np.linalg.norm(adam, axis=axis) / (np.linalg.norm(small, axis=axis) + 1e-8)
            back = small @ basis.T if right else basis @ small
            rest = (g - scale * back) * (gain[:, None] if right else gain)
            norm = np.linalg.norm(rest)
            if i in last and norm > limit * (last[i] + 1e-8):
                rest = rest * limit * (last[i] + 1e-8) / norm
            last[i] = np.linalg.norm(rest)
            step = scale * (adam @ basis.T if right else basis @ adam) + rest
            step = step * math.sqrt(1 - beta2 ** (t + 1)) / (1 - beta1 ** (t + 1))
            params[i] = (params[i] - lr * step) * (1 - lr * wd)


def natural_galore(params, grads, history, damping, **hp):
    """With the dense inverse of damping·mean diagonal + SSᵀ/s."""
    past = {}

    def turn(i, small):
        past[i] = ([small.flatten(), *past.get(i, [])])[:history]
        s = np.array(past[i])
        ridge = damping * (s**2).sum() / history**2
        fisher = ridge * np.eye(small.size) + s.T @ s / history
        return np.linalg.solve(fisher, small.flatten()).reshape(small.shape)

    galore(params, grads, turn=turn, **hp)


def dct_adamw(params, grads, lr, wd, rank, gap, feedback, beta2, beta1=0.9, eps=1e-8):
    m, v, chosen = {}, {}, {}
    rest = [0.0 * p for p in params]
    for t in range(STEPS):
        for i, g in enumerate(grads(t, params)):
            right, n = g.shape[0] >= g.shape[1], min(g.shape)
            q = np.array(
                [
                    [math.cos(math.pi * (2 * a + 1) * b / (2 * n)) for b in range(n)]
                    for a in range(n)
                ]
            )
            q = q / np.sqrt((q**2).sum(0))
            a = g + rest[i] if feedback else g
            a = a if right else a.T
            if t % gap == 0:
                new = np.sort(np.argsort(-np.abs(a @ q).sum(0))[:rank])
                if t:
                    rotation = q[:, chosen[i]].T @ q[:, new]
                    m[i], v[i] = m[i] @ rotation, np.abs(v[i] @ rotation)
                chosen[i] = new
            basis = q[:, chosen[i]]
            small = a @ basis
            rest[i] = (a - small @ basis.T) if right else (a - small @ basis.T).T
            m[i] = beta1 * m.get(i, 0.0) + (1 - beta1) * small
            v[i] = beta2 * v.get(i, 0.0) + (1 - beta2) * small**2
            step = m[i] / (1 - beta1 ** (t + 1)) / (np.sqrt(v[i] / (1 - beta2 ** (t + 1))) + eps)
            step = step @ basis.T
            params[i] = (1 - lr * wd) * params[i] - lr * (step if right else step.T)


SIGNED = [0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875]  # dynamic exponent, 4 bits
SIGNED = np.array([-x for x in SIGNED] + [0.0] + SIGNED + [1.0])


def adam_4bit(params, grads, lr, wd, beta2, above, beta1=0.9, eps=1e-8):
    """Every stored moment is replaced by its nearest representable value."""
    m, v = [0.0 * p for p in params], [0.0 * p for p in params]
    for t in range(1, STEPS + 1):
        for i, g in enumerate(grads(t - 1, params)):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            step = m[i] / (1 - beta1**t) / (np.sqrt(v[i] / (1 - beta2**t)) + eps)
            params[i] = (1 - lr * wd) * params[i] - lr * step
            parts = [b for b in np.split(m[i].ravel(), range(128, m[i].size, 128)) if b.size]
            nearest = [SIGNED[np.abs(b[:, None] / abs(b).max() - SIGNED).argmin(1)] for b in parts]
            m[i] = np.concatenate([n * abs(b).max() for n, b in zip(nearest, parts)]).reshape(
                g.shape
            )
            scale = np.minimum(v[i].max(1)[:, None], v[i].max(0))
            v[i] = np.clip(np.round(v[i] / scale * 16), 1, 16) / 16 * scale


def shampoo(params, grads, lr, wd, beta1, beta2, graft, every, eps):
    """Averages, bias corrections, Adam's norm."""
    assert graft
    n = len(params)
    left, right, m, v, roots = [0.0] * n, [0.0] * n, [0.0] * n, [0.0] * n, [None] * n

    def root(s):
        values, vectors = np.linalg.eigh(s + eps * s.diagonal().max() * np.eye(len(s)))
        return vectors @ np.diag(values**-0.25) @ vectors.T

    for t in range(1, STEPS + 1):
        for i, g in enumerate(grads(t - 1, params)):
            left[i] = beta2 * left[i] + (1 - beta2) * g @ g.T
            right[i] = beta2 * right[i] + (1 - beta2) * g.T @ g
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            if (t - 1) % every == 0:
                roots[i] = root(left[i] / (1 - beta2**t)), root(right[i] / (1 - beta2**t))
            ahead = m[i] / (1 - beta1**t)
            u = roots[i][0] @ ahead @ roots[i][1]
            adam = ahead / (np.sqrt(v[i] / (1 - beta2**t)) + 1e-8)
            u = u * np.sqrt((adam**2).sum() / (u**2).sum())
            params[i] = (1 - lr * wd) * params[i] - lr * u


def mfac(params, grads, lr, wd, momentum, damping, history):
    """With the dense inverse of the Fisher matrix of the whole model."""
    past, b = [], 0.0
    for t in range(STEPS):
        g = np.concatenate([x.ravel() for x in grads(t, params)])
        past = [g, *past][:history]
        fisher = damping * np.eye(len(g)) + np.array(past).T @ np.array(past) / history
        b = momentum * b + np.linalg.solve(fisher, g)
        ends = np.cumsum([p.size for p in params])[:-1]
        for i, part in enumerate(np.split(b, ends)):
            params[i] = (1 - lr * wd) * params[i] - lr * part.reshape(params[i].shape)


QUARTER = {"lr": 0.02, "wd": 0.1, "beta2": 0.99}


def frugal(params, grads, lr, wd, density, sign_scale, gap, beta1, beta2, eps):
    """Algorithm 1 of arXiv 2411.07837: AdamW on drawn columns, begun anew, and signs elsewhere."""
    for t in range(STEPS):
        if t % gap == 0:
            m, v = [0.0 * p for p in params], [0.0 * p for p in params]
            drawn = [torch.randperm(p.shape[1])[: round(density * p.shape[1])] for p in params]
        k = t % gap + 1
        for i, g in enumerate(grads(t, params)):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            u = sign_scale * np.sign(g)
            adam = (m[i] / (1 - beta1**k)) / (np.sqrt(v[i] / (1 - beta2**k)) + eps)
            u[:, drawn[i]] = adam[:, drawn[i]]
            params[i] = (1 - lr * wd) * params[i] - lr * u


FORMULAS = [
    Row("galore", galore, {**LOW, "gap": 10**9}, package="", shapes=MATRICES),
    Row("natural_galore", natural_galore, {**LOW, "gap": 10**9, "history": 3, "damping": 0.5},
        package="", shapes=MATRICES, float32=1e-5),
    Row("frugal", frugal, {"lr": 0.02, "wd": 0.1, "density": 0.5, "sign_scale": 0.3, "gap": 7,
        "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}, package="", shapes=MATRICES),
    Row("dct_adamw", dct_adamw, {**QUARTER, "rank": 2, "gap": 1, "feedback": True}, package="",
        shapes=MATRICES, float32=1e-5, label="feedback"),
    Row("dct_adamw", dct_adamw, {**QUARTER, "rank": 2, "gap": 7, "feedback": False}, package="",
        shapes=MATRICES, float32=1e-5),
    Row("adam_4bit", adam_4bit, {**QUARTER, "above": 0}, package="", shapes=[(16, 20), (6, 4)],
        float32=1e-5),
    Row("shampoo", shampoo, {"lr": 0.05, "wd": 0.1, "beta1": 0.9, "beta2": 0.95, "graft": True,
        "every": 3, "eps": 1e-4}, package="", shapes=MATRICES, float32=2e-5, float64=1e-10),
    Row("mfac", mfac, {"lr": 0.02, "wd": 0.1, "momentum": 0.5, "damping": 0.3, "history": 4},
        package="", float32=5e-6),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
@DTYPES
def test_matrix_method_equals_its_formula(row, dtype):
    params = [p.double().numpy() for p in start(dtype, row.shapes)]
    torch.manual_seed(0)
    row.second(params, lambda t, ps: [gradient(p, 0, t, i) for i, p in enumerate(ps)], **row.hp)
    limit = row.float32 if dtype == torch.float32 else row.float64
    torch.manual_seed(0)
    assert error(ours(row, dtype), [torch.from_numpy(p) for p in params]) <= limit


@pytest.mark.parametrize("name, formula", [("galore", galore), ("fira", fira)])
@pytest.mark.parametrize("gap", [7, 10])
def test_projections_keep_their_moments_over_a_refresh(name, formula, gap):
    """In float64 alone: the moments follow the signs of the singular vectors.

    A row that forgets its moments, or refreshes a step early, ends elsewhere.
    """
    hp = {**LOW, "gap": gap}
    params = [p.numpy() for p in start(torch.float64, MATRICES)]
    formula(params, lambda t, ps: [gradient(p, 0, t, i) for i, p in enumerate(ps)], **hp)
    mine = ours(Row(name, None, hp, shapes=MATRICES), torch.float64)
    assert error(mine, [torch.from_numpy(p) for p in params]) <= 1e-10
    early = ours(Row(name, None, hp | {"gap": gap - 1}, shapes=MATRICES), torch.float64)
    assert error(mine, early) > 1e-3


# Limits


def test_galore_has_adam_of_the_coordinates_where_the_rank_is_full():
    """Never AdamW itself: Adam is elementwise, and the basis is turned."""
    hp = {**LOW, "rank": 4, "gap": 10**9, "scale": 1.0, "wd": 0.0}
    params = [p.numpy() for p in start(torch.float64, MATRICES)]
    galore(params, lambda t, ps: [gradient(p, 0, t, i) for i, p in enumerate(ps)], **hp)
    mine = ours(Row("galore", None, hp, shapes=MATRICES), torch.float64)
    assert error(mine, [torch.from_numpy(p) for p in params]) <= 1e-11
    adam = package("torch", "optim.AdamW", lr=0.05, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.0)
    assert error(mine, theirs(Row("galore", adam, shapes=MATRICES), torch.float64)) > 1e-3


@pytest.mark.parametrize("density, peer", [
    (1.0, package("torch", "optim.AdamW", lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)),
    (0.0, package("pytorch_optimizer", "SignSGD", lr=0.01, momentum=0.0, weight_decay=0.1)),
])  # fmt: skip
def test_frugal_is_adamw_of_everything_or_sign_descent(density, peer):
    hp = {"lr": 0.01, "wd": 0.1, "density": density, "sign_scale": 1.0, "gap": 10**9, "beta2": 0.99}
    mine = ours(Row("frugal", None, hp, shapes=MATRICES), torch.float64)
    assert error(mine, theirs(Row("frugal", peer, shapes=MATRICES), torch.float64)) <= 1e-11


def test_frugal_moves_only_drawn_columns_by_adam():
    module = discover.load(discover.find("frugal"))
    hp = hyperparameters("frugal", {"lr": 0.01, "wd": 0.0, "sign_scale": 0.5, "density": 0.25})
    params = [torch.zeros(3, 8)]
    state = module.init(params, hp)
    module.update(params, [torch.full((3, 8), 0.3)], state, hp, 0.0)
    adam, sign = torch.tensor(-0.01), torch.tensor(-0.005)
    drawn = torch.isin(torch.arange(8), state["columns"][0])
    torch.testing.assert_close(params[0], torch.where(drawn, adam, sign).expand(3, 8))
    assert drawn.sum() == 2


def test_kron_whitens_a_stationary_gradient():
    """Its fixed point P = (E ggᵀ)^(−1/2): the preconditioned gradient has unit covariance."""
    module, torch_rng = discover.load(discover.find("psgd_kron")), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    u, w = torch.eye(4), torch.eye(3)
    left = torch.diag(torch.tensor([1.0, 2.0, 4.0, 8.0]))
    for _ in range(1500):
        g = left @ torch.randn(4, 3, generator=torch_rng)
        module.fit_(u, w, g, torch.randn(4, 3), 0.05)
    g = left @ torch.randn(4, 3 * 4000, generator=torch_rng)
    white = u.mT @ u @ g * (w.mT @ w).diagonal().mean()
    covariance = white @ white.mT / g.shape[1]
    torch.testing.assert_close(covariance, torch.eye(4), rtol=0, atol=0.25)


def test_lbfgs_direction_equals_the_dense_update():
    module, random = discover.load(discover.find("lbfgs")), np.random.default_rng(0)
    a = random.standard_normal((8, 8))
    a = a @ a.T + np.eye(8)
    s = random.standard_normal((5, 8))
    y, g = s @ a, random.standard_normal(8)
    h = np.eye(8) * (s[-1] @ y[-1]) / (y[-1] @ y[-1])
    for b, c in zip(s, y):
        rho, eye = 1 / (b @ c), np.eye(8)
        h = (eye - rho * np.outer(b, c)) @ h @ (eye - rho * np.outer(c, b)) + rho * np.outer(b, b)
    found = module.direction(*(torch.from_numpy(x) for x in (g, s, y)))
    np.testing.assert_allclose(found.numpy(), -h @ g, rtol=1e-10)


# Methods that own their step


def run(name, hp, steps=STEPS, dtype=torch.float64, task=None):
    """The task and the algorithm after some steps."""
    task = task or regression(dtype)[0]
    algorithm = discover.load(discover.find(name)).Algorithm(task, hyperparameters(name, hp))
    for task.step in range(steps):
        algorithm.step()
    return task, algorithm


def values(task):
    return [p.detach() for p in task.params]


SGD = {"lr": 0.1, "wd": 0.01, "momentum": 0.9, "nesterov": True}


def large_batch_sgd():
    """Torch's SGD on the batches of the task."""
    task = regression(torch.float64)[0]
    peer = torch.optim.SGD(task.params, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    for _ in range(STEPS):
        task.forward_backward(task.next_batch())
        peer.step()
    return values(task)


def test_local_sgd_that_always_merges_is_sgd_on_the_whole_batch():
    task, _ = run("local_sgd", {**SGD, "every": 1, "graph": "complete"})
    assert error(values(task), large_batch_sgd()) <= 1e-11


def test_gossip_keeps_the_mean_and_shrinks_the_spread():
    _, algorithm = run("local_sgd", {**SGD, "every": 0})

    def spread():
        return sum(torch.stack(same).var(dim=0).sum() for same in zip(*algorithm.replicas))

    before, apart = algorithm.evaluate_view(), spread()
    algorithm.gossip()
    assert error(algorithm.evaluate_view(), before) <= 1e-14
    assert 0 < spread() < apart / 2


def test_ef21_that_sends_everything_is_sgd():
    hp = {"lr": 0.1, "wd": 0.0, "share": 1.0, "eta": 1.0}
    task, second = run("ef21", hp)[0], regression(torch.float64)[0]
    for _ in range(STEPS):
        second.forward_backward(second.next_batch())
        with torch.no_grad():
            for p in second.params:
                p.sub_(p.grad, alpha=0.1)
    assert error(values(task), values(second)) <= 1e-11


def test_ef21_equals_its_formula():
    hp = {"lr": 0.1, "wd": 0.05, "share": 0.3, "eta": 0.4}
    task, params, batches = regression(torch.float64)
    run("ef21", hp, task=task)
    v, g = {}, {}
    for t in range(STEPS):
        for k in range(4):
            for i, new in enumerate(mean_gradients(params, batches(2))):
                v[k, i] = new if t == 0 else 0.6 * v[k, i] + 0.4 * new
                gap = v[k, i] - g.get((k, i), 0.0)
                if t:
                    least = np.sort(np.abs(gap).ravel())[-max(1, round(0.3 * gap.size))]
                    gap = gap * (np.abs(gap) >= least)
                g[k, i] = g.get((k, i), 0.0) + gap
        for i, p in enumerate(params):
            params[i] = p - 0.1 * 0.05 * p - 0.1 * sum(g[k, i] for k in range(4)) / 4
    assert error(values(task), [torch.from_numpy(p) for p in params]) <= 1e-11


def test_monna_ignores_a_liar_however_loud():
    quiet, loud = (values(run("monna", {"lr": 0.1, "attack": a})[0]) for a in (1e3, 1e6))
    assert error(loud, quiet) <= 1e-12
    module = discover.load(discover.find("monna"))
    near, far = [[torch.tensor(float(x))] for x in (1, 2, 6)], [[torch.tensor(1e9)]]
    assert module.nearest_mean(near[0], near + far, 3)[0] == 3.0


def test_dp_sgd_without_noise_or_clipping_is_sgd():
    task, _ = run("dp_sgd", {**SGD, "clip": 1e12, "noise": 0.0})
    assert error(values(task), large_batch_sgd()) <= 1e-11


def test_dp_sgd_equals_its_formula_clipping_each_example_over_all_parameters():
    task, params, batches = regression(torch.float64)
    hp = {**SGD, "momentum": 0.5, "wd": 0.0, "nesterov": False, "clip": 0.5, "noise": 0.0}
    run("dp_sgd", hp, task=task)
    b = [0.0, 0.0]
    for _ in range(STEPS):
        examples = examples_gradients(params, batches())
        norms = np.sqrt(sum((g.reshape(8, -1) ** 2).sum(1) for g in examples))
        factor = np.minimum(1, 0.5 / (norms + 1e-6))
        b = [0.5 * x + np.tensordot(factor, g, 1) / 8 for x, g in zip(b, examples)]
        params = [p - 0.1 * x for p, x in zip(params, b)]
    assert error(values(task), [torch.from_numpy(p) for p in params]) <= 1e-11


def test_dp_sgd_noise_has_the_deviation_it_says():
    module = discover.load(discover.find("dp_sgd"))
    zeros = [torch.zeros(10, 200, 100)]
    drawn = module.privatise(zeros, 0.5, 2.0, torch.Generator().manual_seed(0))[0]
    assert drawn.std().item() == pytest.approx(0.5 * 2.0 / 10, rel=0.02)


class Classes(Regression):
    """The regression task with its logits offered."""

    @staticmethod
    def batch(data, index, config):
        return {"x": data["x"][index], "targets": data["y"][index]}

    @staticmethod
    def logits(model, batch):
        return model(batch["x"])

    @staticmethod
    def losses(model, batch):
        return torch.nn.functional.cross_entropy(
            model(batch["x"]), batch["targets"], reduction="none"
        )


def classes():
    second = regression(torch.float64)[0]
    return Task(Classes, SimpleNamespace(batch=8), second._data, second.model, 0, 10**12)


def adam_run(loss=None):
    """AdamW of torch with our defaults, on the task's batches."""
    task = classes()
    hp = hyperparameters("adamw", {})
    betas = hp.beta1, hp.beta2
    peer = torch.optim.AdamW(task.params, lr=hp.lr, betas=betas, weight_decay=hp.wd)
    for t in range(STEPS):
        index = task.next_index()
        batch = task.gather(index)
        if loss:
            task.model.zero_grad()
            loss(t, task.model(batch["x"]), batch["targets"], index).backward()
        else:
            task.forward_backward(batch)
        peer.step()
    return values(task)


def test_elr_equals_its_formula():
    targets = torch.zeros(64, 3, dtype=torch.float64)

    def loss(t, logits, labels, index):
        q = torch.softmax(logits, 1).clamp(1e-4, 1 - 1e-4)
        for row, i in enumerate(index.tolist()):
            targets[i] = 0.7 * targets[i] + 0.3 * q[row].detach() / q[row].detach().sum()
        nats = -torch.log_softmax(logits, 1)[torch.arange(8), labels].mean()
        return nats + 3.0 * torch.log(1 - (targets[index] * q).sum(1)).mean()

    task, _ = run("elr", {"memory": 0.7, "strength": 3.0}, task=classes())
    assert error(values(task), adam_run(loss)) <= LOOSE  # t is kept in float32


def test_elr_without_strength_is_adamw():
    task, _ = run("elr", {"memory": 0.7, "strength": 0.0}, task=classes())
    assert error(values(task), adam_run()) <= 1e-11


def test_selective_backprop_keeps_every_other_example():
    module = discover.load(discover.find("selective_backprop"))
    losses = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    chance = module.keep_probability(losses, losses)
    assert chance.mean().item() == pytest.approx(0.5, abs=1e-3)  # 1/(β + 1)
    assert chance[losses.argmax()] == 1.0
    task, _ = run("selective_backprop", {}, steps=300)
    assert task.meter.counts["forward"] / 300 == pytest.approx(2.0, rel=0.1)


def test_rs2_rounds_are_subsets_without_repetition():
    task = regression(torch.float64)[0]
    algorithm = discover.load(discover.find("rs2")).Algorithm(
        task, hyperparameters("rs2", {"share": 0.25})
    )
    rounds = [algorithm.take(16).tolist() for _ in range(40)]
    assert all(len(set(r)) == 16 for r in rounds)
    assert len({i for r in rounds for i in r}) == 64
    assert rounds[0] != rounds[1]


def test_rho_loss_judges_by_a_model_of_examples_it_never_trains_on_again():
    task = regression(torch.float64)[0]
    task.horizon = 20
    task, algorithm = run("rho_loss", {}, steps=20, task=task)
    assert algorithm.state["phase"] == 1
    assert task.meter.counts["forward@batch=4"] == 2 * 16
    assert task.meter.counts["forward_backward"] == 20
    held = set(algorithm.state["order"][: round(algorithm.hp.holdout * 64)].tolist())
    assert not held & set(algorithm.draw(1000).tolist())
    batch = task.next_batch()
    algorithm.state["judge"] = [p.detach().clone() for p in task.params]
    assert torch.equal(algorithm.judged(batch), task.losses(batch))


def test_eggroll_equals_its_formula():
    hp = {"lr": 0.01, "sigma": 0.02}
    module = discover.load(discover.find("eggroll"))
    task, second = run("eggroll", hp, steps=3)[0], regression(torch.float64)[0]
    for _ in range(3):
        batch, start_values = second.next_batch(), [p.detach().clone() for p in second.params]
        seeds = torch.randint(2**62, (8,), generator=second.rng).tolist()
        drawn = [list(module.noise(second.params, seed, 1)) for seed in seeds]
        members = [[s * e for e in es] for es in drawn for s in (1, -1)]
        assert all(torch.linalg.matrix_rank(es[0]) == 1 for es in members)
        fitness = []
        for es in members:
            for p, at, e in zip(second.params, start_values, es):
                p.data.copy_(at + 0.02 * e)
            fitness.append(-float(second.forward(batch)))
        fitness = np.array(fitness)
        fitness = (fitness - fitness.mean()) / np.sqrt(fitness.var() + 1e-5)
        for i, (p, at) in enumerate(zip(second.params, start_values)):
            mean = sum(f * es[i] for f, es in zip(fitness, members)) / 16
            p.data.copy_(at + 0.01 * 4 * mean)
    assert error(values(task), values(second)) <= 1e-9


def test_tpsgd_moves_the_readout_along_its_true_gradient():
    task, second = classes(), classes()
    for each in (task, second):
        each.model.role = "readout"
    run("tpsgd", {"readout_lr": 0.3}, steps=5, task=task)
    for _ in range(5):
        second.forward_backward(second.next_batch())
        with torch.no_grad():
            for p in second.params:
                p.sub_(p.grad, alpha=0.3)
    assert error(values(task), values(second)) <= 1e-11
    assert all(not p.grad_fn for p in task.params)


def test_hyperband_spends_its_budget_on_the_papers_brackets():
    module = discover.load(discover.find("hyperband"))
    rungs, most = module.plan(1000)
    starts = [(n, most // 3**s) for s, n, first, last in rungs if first == 0]
    assert starts == [(9, most // 9), (5, most // 3), (3, most)]
    assert [n for s, n, *_ in rungs if s == 2] == [9, 3, 1]
    assert 0.98 * 1000 <= module.cost(rungs) <= 1000


@pytest.mark.parametrize("name", ["hyperband", "pbt"])
def test_tuners_count_every_step_and_evaluate_their_best(name):
    task = regression(torch.float32)[0]
    task.horizon = 230
    first = float(task.losses(task.gather(torch.arange(64))).mean())
    task, algorithm = run(name, {"spread": 3.0}, steps=230, task=task)
    assert task.meter.counts["forward_backward"] == 230
    for p, value in zip(task.params, algorithm.evaluate_view()):
        p.data.copy_(value)
    assert float(task.losses(task.gather(torch.arange(64))).mean()) < first


@pytest.mark.parametrize("name", ["asha", "bohb", "hyperband", "pbt"])
def test_a_run_that_diverged_is_never_the_best(name):
    """Half of the learning rates are so large that weights stop being numbers."""
    task = regression(torch.float32)[0]
    task.horizon = 230
    _, algorithm = run(name, {"spread": 1e30}, steps=230, task=task)
    assert all(torch.isfinite(value).all() for value in algorithm.evaluate_view())
