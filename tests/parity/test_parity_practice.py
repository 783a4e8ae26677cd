"""Optimizers that practitioners ask for follow a second implementation of their rule.

The laws and the gradients are those of test_parity. Peers are torch's and other trusted packages'
classes; formulas are float64 loops written from the papers, where a package errs or none exists.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from harness.catalog import discover
from tests.parity import test_parity as parity
from tests.parity.test_parity import (
    ADAM,
    ADAMS,
    SHAPES,
    STEPS,
    TIGHT,
    Row,
    adamw,
    error,
    gradient,
    hyperparameters,
    norm,
    package,
    start,
    trainable,
)

MATRICES = SHAPES[:2]
SQUARES = [(4, 4), (3, 3)]
PO = "pytorch_optimizer"
DECAY = {"weight_decay": 0.1}


def kozistr(name, **kwargs):
    """A class of pytorch_optimizer."""
    return package(PO, name, **kwargs)


def wrapped(params):
    """Lookahead of pytorch_optimizer around torch's AdamW."""
    inner = torch.optim.AdamW(params, **ADAMS, foreach=False)
    return package(PO, "Lookahead", k=4, alpha=0.5)(inner)


def by_role(name, **kwargs):
    """A class of pytorch_optimizer that wants to be told what its matrices are."""
    return lambda params: kozistr(name, **kwargs)([{"params": params, "use_muon": True}])


PEERS = [
    Row("ademamix",
        kozistr("AdEMAMix", lr=0.01, betas=(0.9, 0.99, 0.999), alpha=5.0, weight_decouple=True,
                **DECAY),
        {**ADAM, "beta3": 0.999, "alpha": 5.0}, package=PO),
    # The peer adds 1e-8 to the norm that it divides by.
    Row("mars",
        kozistr("MARS", lr=0.01, betas=(0.95, 0.99), gamma=0.025, lr_1d=0.01, weight_decay_1d=0.1,
                **DECAY),
        {"lr": 0.01, "wd": 0.1, "beta1": 0.95, "beta2": 0.99, "gamma": 0.025}, package=PO,
        float64=1e-7),
    Row("adan", kozistr("Adan", lr=0.01, betas=(0.98, 0.92, 0.99), **DECAY),
        {"lr": 0.01, "wd": 0.1, "beta3": 0.99}, package=PO, float32=5e-6),
    Row("came", kozistr("CAME", lr=0.01, **DECAY), {"lr": 0.01, "wd": 0.1}, package=PO,
        float32=1e-5),
    Row("lookahead", wrapped, {**ADAM, "k": 4, "alpha": 0.5}, package=PO),
    Row("radam",
        package("torch", "optim.RAdam", **ADAMS, decoupled_weight_decay=True, foreach=False),
        ADAM),
    Row("schedule_free_radam", trainable("schedulefree", "RAdamScheduleFree", **ADAMS),
        ADAM, package="schedulefree"),
    Row("schedule_free_sgd",
        trainable("schedulefree", "SGDScheduleFree", lr=0.1, momentum=0.9, weight_decay=0.01),
        {"lr": 0.1, "wd": 0.01, "beta": 0.9}, package="schedulefree"),
    Row("adabelief", kozistr("AdaBelief", **ADAMS, eps=1e-8), {**ADAM, "eps": 1e-8}, package=PO),
    Row("d_adaptation",
        kozistr("DAdaptAdam", lr=1.0, betas=(0.9, 0.99), d0=1e-3, weight_decouple=True, **DECAY),
        {"lr": 1.0, "beta2": 0.99, "d0": 1e-3, "wd": 0.1, "bias_correction": False}, package=PO,
        float32=5e-5, float64=1e-6),
    # The peer's eigenvectors are of float32; of matrices without full rank they are arbitrary.
    Row("splus", kozistr("SPlus", lr=0.1, **DECAY, inverse_steps=10),
        {"lr": 0.1, "wd": 0.1, "beta2": 0.999, "every": 10, "average": 0.999}, package=PO,
        shapes=SQUARES, float32=1e-5, float64=1e-5),
    Row("tiger", kozistr("Tiger", lr=0.01, beta=0.965, **DECAY),
        {"lr": 0.01, "wd": 0.1, "beta": 0.965, "scale": "none"}, package=PO),
    Row("stable_adamw", kozistr("StableAdamW", **ADAMS, eps=1e-6), {**ADAM, "eps": 1e-6},
        package=PO),
    # These two place eps in other ways.
    Row("laprop", kozistr("LaProp", **ADAMS), {**ADAM, "eps": 1e-15}, package=PO, float64=1e-8),
    Row("grokfast",
        kozistr("GrokFastAdamW", **ADAMS, grokfast_alpha=0.98, grokfast_lamb=2.0,
                grokfast_after_step=0,
                normalize_lr=False),
        {**ADAM, "alpha": 0.98, "lamb": 2.0}, package=PO, float64=1e-8),
    Row("lars", kozistr("LARS", lr=10.0, trust_coefficient=1e-2, **DECAY),
        {"lr": 10.0, "trust": 1e-2, "wd": 0.1, "momentum": 0.9}, package=PO),
    Row("novograd",
        kozistr("NovoGrad", lr=0.01, betas=(0.95, 0.98), weight_decouple=False, **DECAY),
        {"lr": 0.01, "wd": 0.1, "beta2": 0.98}, package=PO),
    Row("yogi", kozistr("Yogi", **ADAMS), {**ADAM, "eps": 1e-3}, package=PO),
    Row("madgrad", kozistr("MADGRAD", lr=0.01, momentum=0.9, weight_decay=0.01),
        {"lr": 0.01, "momentum": 0.9, "wd": 0.01}, package=PO),
    # torch's and the peers' Newton-Schulz run in bfloat16, as for muon: see the formulas below.
    Row("moonlight",
        package("torch", "optim.Muon", lr=0.02, weight_decay=0.1, momentum=0.95,
                adjust_lr_fn="match_rms_adamw"),
        {"lr": 0.02, "wd": 0.1}, shapes=MATRICES, float32=5e-3, float64=5e-3),
    Row("normuon", by_role("NorMuon", lr=0.02, momentum=0.95, **DECAY, update_scale="match_rms"),
        {"lr": 0.02, "wd": 0.1, "scale": "paper"}, package=PO, shapes=MATRICES, float32=5e-3,
        float64=5e-3),
]  # fmt: skip


@pytest.mark.parametrize("row", PEERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_submission_equals_its_peer(row, dtype):
    parity.test_submission_equals_its_peer(row, dtype)


# Formulas change the list `params` of float64 arrays in place; grads(step, params) is t from 0.


def adopt(params, grads, lr, wd, beta1, beta2, eps):
    """Algorithm 2 of arXiv 2411.02853 with clipping at (t − 1)^(1/4)."""
    m, v = [0.0 * p for p in params], None
    for t in range(1, STEPS + 1):
        g = grads(t - 1, params)
        if t == 1:
            v = [x * x for x in g]
            continue
        for i in range(len(params)):
            u = np.clip(g[i] / np.maximum(np.sqrt(v[i]), eps), -((t - 1) ** 0.25), (t - 1) ** 0.25)
            m[i] = beta1 * m[i] + (1 - beta1) * u
            params[i] = (1 - lr * wd) * params[i] - lr * m[i]
            v[i] = beta2 * v[i] + (1 - beta2) * g[i] ** 2


def mars(params, grads, lr, wd, beta1, beta2, gamma, eps=1e-8):
    """Algorithm 2 of arXiv 2411.10438, approximate form; AdamW for vectors."""
    m, v, last = ([0.0 * p for p in params] for _ in range(3))
    for t in range(1, STEPS + 1):
        for i, g in enumerate(grads(t - 1, params)):
            c, b1, b2 = g, 0.9, 0.95
            if g.ndim == 2:
                b1, b2 = beta1, beta2
                c = g + gamma * beta1 / (1 - beta1) * (g - last[i])
                c = c / max(1.0, norm([c]))
            last[i] = g
            m[i] = b1 * m[i] + (1 - b1) * c
            v[i] = b2 * v[i] + (1 - b2) * c * c
            u = (m[i] / (1 - b1**t)) / (np.sqrt(v[i] / (1 - b2**t)) + eps)
            params[i] = params[i] - lr * (u + wd * params[i])


def adam_atan2(params, grads, lr, wd, beta1, beta2, a=1.27, b=1.0):
    """arXiv 2407.05872, Section 4.3."""
    m, v = [0.0 * p for p in params], [0.0 * p for p in params]
    for t in range(1, STEPS + 1):
        for i, g in enumerate(grads(t - 1, params)):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            u = np.arctan2(m[i] / (1 - beta1**t), b * np.sqrt(v[i] / (1 - beta2**t)))
            params[i] = params[i] - lr * wd * params[i] - lr * a * u


def gradient_centralisation(params, grads, **hp):
    """Equation 1 of arXiv 2004.01461 in front of AdamW."""

    def centred(t, ps):
        return [g - g.mean(1)[:, None] if g.ndim == 2 else g for g in grads(t, ps)]

    adamw(params, centred, **hp)


def adam_mini(params, grads, lr, wd, beta1, beta2, eps):
    """Algorithm 1 of arXiv 2406.16793: a block is a row, or a vector."""
    blocks = [list(p) if p.ndim == 2 else [p] for p in params]
    m, v = [[0.0 * x for x in b] for b in blocks], [[0.0 for _ in b] for b in blocks]
    for t in range(1, STEPS + 1):
        for i, g in enumerate(grads(t - 1, params)):
            for j, (x, slope) in enumerate(zip(blocks[i], list(g) if g.ndim == 2 else [g])):
                m[i][j] = beta1 * m[i][j] + (1 - beta1) * slope
                v[i][j] = beta2 * v[i][j] + (1 - beta2) * (slope**2).mean()
                scale = math.sqrt(v[i][j] / (1 - beta2**t)) + eps
                blocks[i][j] = (1 - lr * wd) * x - lr * m[i][j] / (1 - beta1**t) / scale
            params[i] = np.stack(blocks[i]) if g.ndim == 2 else blocks[i][0]


def d_adaptation_sgd(params, grads, lr, wd, momentum, d0):
    """Algorithm 4 of arXiv 2301.07733 with the estimate of the authors' package."""
    first, s, r, d = [p.copy() for p in params], [0.0 * p for p in params], 0.0, d0
    for t in range(STEPS):
        plain = grads(t, params)
        if t == 0:
            scale = norm(plain)
        g = [x + wd * p for x, p in zip(plain, params)]
        step = d * lr / scale
        r += step * sum((x * y).sum() for x, y in zip(g, s))
        s = [y + step * x for x, y in zip(g, s)]
        d = max(d, 2 * r / norm(s))
        for i in range(len(params)):
            params[i] = momentum * params[i] + (1 - momentum) * (first[i] - s[i])
    assert d > d0, "the estimate never grew"


def quintic(u, steps):
    """Odd polynomials of the singular values of u / (its norm); steps: (scale, polynomials)."""
    scale, polynomials = steps
    left, s, right = np.linalg.svd(u, full_matrices=False)
    s = s / (math.sqrt((s**2).sum()) * scale + 1e-7)
    for a, b, c in polynomials:
        s = a * s + b * s**3 + c * s**5
    return (left * s) @ right


JORDAN = (1.0, [(3.4445, -4.7750, 2.0315)] * 5)
# Printed in Algorithm 1 of arXiv 2505.16932, where x is divided by the safety factor 1.01.
EXPRESS = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
]
SAFE = (1.01, [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in EXPRESS])


def nesterov(params, grads, momentum, steps):
    """Yield (i, orthogonalised Nesterov direction) of every matrix at every step."""
    m = [0.0 * p for p in params]
    for t in range(STEPS):
        for i, g in enumerate(grads(t, params)):
            m[i] = momentum * m[i] + (1 - momentum) * g
            yield i, quintic(momentum * m[i] + (1 - momentum) * g, steps)


def moonlight(params, grads, lr, wd, momentum):
    """Equation 4 of arXiv 2502.16982."""
    for i, x in nesterov(params, grads, momentum, JORDAN):
        params[i] = params[i] - lr * (0.2 * x * math.sqrt(max(x.shape)) + wd * params[i])


def polar_express(params, grads, lr, wd, momentum):
    """Algorithm 1 of arXiv 2505.16932 within Muon."""
    for i, x in nesterov(params, grads, momentum, SAFE):
        stretch = math.sqrt(max(1, x.shape[0] / x.shape[1]))
        params[i] = (1 - lr * wd) * params[i] - lr * stretch * x


def normuon(params, grads, lr, wd, momentum, beta2, scale):
    """Algorithm 1 of arXiv 2510.05491 ("paper") and the authors' scale ("code")."""
    v = [np.zeros(p.shape[0]) for p in params]
    for i, o in nesterov(params, grads, momentum, JORDAN):
        v[i] = beta2 * v[i] + (1 - beta2) * (o**2).mean(1)
        n = o / (np.sqrt(v[i])[:, None] + 1e-10)
        rows, columns = o.shape
        size = 0.2 * math.sqrt(rows * columns)
        if scale == "code":
            size = norm([o]) * math.sqrt(max(1, rows / columns))
        params[i] = params[i] - lr * wd * params[i] - lr * size * n / norm([n])


def scion(params, grads, lr, mu, rho, constrained):
    """Algorithm 3 of arXiv 2502.07529 with the spectral norm."""
    d = [0.0 * p for p in params]
    for t in range(STEPS):
        for i, g in enumerate(grads(t, params)):
            d[i] = (1 - mu) * d[i] + mu * g
            rows, columns = g.shape
            answer = -rho * math.sqrt(rows / columns) * quintic(d[i], JORDAN)
            params[i] = (1 - lr if constrained else 1.0) * params[i] + lr * answer


def sign_lmo(params, grads, lr, mu, rho, vector_rho):
    """Algorithm 2 of arXiv 2502.07529 with Sign for matrices and BiasRMS for vectors."""
    d = [0.0 * p for p in params]
    for t in range(STEPS):
        for i, g in enumerate(grads(t, params)):
            d[i] = (1 - mu) * d[i] + mu * g
            if g.ndim == 2:
                answer = -rho * np.sign(d[i]) / g.shape[1]
            else:
                answer = -vector_rho * d[i] / (math.sqrt((d[i] ** 2).mean()) + 1e-8)
            params[i] = (1 - lr) * params[i] + lr * answer


def splus(params, grads, lr, wd, beta1, beta2, every):
    """Algorithm 1 of arXiv 2506.07254; a basis serves from the step after its own."""
    m, left, right = [0.0 * p for p in params], [0.0] * len(params), [0.0] * len(params)
    u, v = ([np.eye(p.shape[axis]) for p in params] for axis in (0, 1))
    for t in range(1, STEPS + 1):
        for i, g in enumerate(grads(t - 1, params)):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            left[i] = beta2 * left[i] + (1 - beta2) * g @ g.T
            right[i] = beta2 * right[i] + (1 - beta2) * g.T @ g
            rate = lr * 2 / sum(g.shape)
            step = u[i] @ np.sign(u[i].T @ m[i] @ v[i]) @ v[i].T
            params[i] = (1 - rate * wd) * (params[i] - rate * step)
            if t == 1 or t % every == 0:
                u[i], v[i] = np.linalg.eigh(left[i])[1], np.linalg.eigh(right[i])[1]


def tiger(params, grads, lr, wd, beta):
    """The author's code: a share of the RMS in matrices, half of lr and no decay in vectors."""
    m = [0.0 * p for p in params]
    for t in range(STEPS):
        for i, g in enumerate(grads(t, params)):
            m[i] = beta * m[i] + (1 - beta) * g
            if g.ndim > 1:
                rms = math.sqrt((params[i] ** 2).mean())
                params[i] = params[i] - lr * rms * (np.sign(m[i]) + wd * params[i])
            else:
                params[i] = params[i] - lr / 2 * np.sign(m[i])


ROWS = {"lr": 0.02, "wd": 0.1, "momentum": 0.95}
FORMULAS = [
    Row("adopt", adopt, {**ADAM, "beta2": 0.9999, "eps": 1e-6}, package=""),
    Row("mars", mars, {"lr": 0.01, "wd": 0.1, "beta1": 0.95, "beta2": 0.99, "gamma": 0.025},
        package=""),
    Row("adam_atan2", adam_atan2, {k: v for k, v in ADAM.items() if k != "eps"}, package=""),
    Row("gradient_centralisation", gradient_centralisation, ADAM, package=""),
    Row("tiger", tiger, {"lr": 0.01, "wd": 0.1, "beta": 0.965}, package=""),
    Row("adam_mini", adam_mini, ADAM, package=""),
    Row("d_adaptation_sgd", d_adaptation_sgd,
        {"lr": 1.0, "wd": 0.01, "momentum": 0.9, "d0": 1e-2}, package="", float32=5e-5),
    Row("splus", splus, {"lr": 0.1, "wd": 0.1, "beta1": 0.9, "beta2": 0.999, "every": 10},
        package="", shapes=SQUARES, float32=1e-5),
    Row("moonlight", moonlight, ROWS, package="", shapes=MATRICES, float32=5e-6),
    Row("polar_express", polar_express, ROWS, package="", shapes=MATRICES, float32=5e-6),
    Row("normuon", normuon, {**ROWS, "beta2": 0.95, "scale": "paper"}, package="",
        shapes=MATRICES, float32=5e-6, label="paper"),
    Row("normuon", normuon, {**ROWS, "beta2": 0.95, "scale": "code"}, package="",
        shapes=MATRICES, float32=5e-6, label="code"),
    Row("scion", scion, {"lr": 0.01, "mu": 0.1, "rho": 5.0, "constrained": True}, package="",
        shapes=MATRICES, float32=5e-6),
    Row("scion", scion, {"lr": 0.01, "mu": 0.1, "rho": 5.0, "constrained": False}, package="",
        shapes=MATRICES, float32=5e-6, label="unconstrained"),
    Row("sign_lmo", sign_lmo, {"lr": 0.01, "mu": 0.1, "rho": 10.0, "vector_rho": 5.0}, package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", FORMULAS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_submission_equals_its_formula(row, dtype):
    parity.test_submission_equals_its_formula(row, dtype)


# Methods that draw: the formula draws again from torch's generator, seeded alike.


def apollo(params, grads, lr, wd, rank, gap, scale, factor, beta1, beta2, eps):
    """Algorithm 1 of arXiv 2412.05270 in the order of the authors' package."""
    torch.manual_seed(0)
    m, v, last, p = {}, {}, {}, {}
    for t in range(1, STEPS + 1):
        for i, w in enumerate(params):
            if (t - 1) % gap == 0:
                drawn = torch.randn(min(w.shape), min(rank, *w.shape)).double().numpy()
                p[i] = drawn / math.sqrt(drawn.shape[1])
        for i, g in enumerate(grads(t - 1, params)):
            tall = g.shape[0] >= g.shape[1]
            r = (g if tall else g.T) @ p[i]
            m[i] = beta1 * m.get(i, 0.0) + (1 - beta1) * r
            v[i] = beta2 * v.get(i, 0.0) + (1 - beta2) * r * r
            adam = m[i] / (np.sqrt(v[i]) + eps)
            gains = np.sqrt((adam**2).sum(1)) / (np.sqrt((r**2).sum(1)) + 1e-8)
            if factor == "tensor":
                gains = np.full(len(r), norm([adam]) / (norm([r]) + 1e-8))
            step = g * (gains[:, None] if tall else gains[None, :])
            limit = max(norm([step]) / (last[i] + 1e-8), 1.01) / 1.01 if i in last else 1.0
            step, last[i] = step / limit, norm([step]) / limit
            rate = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
            params[i] = (1 - lr * wd) * (params[i] - rate * math.sqrt(scale) * step)


def dion(params, grads, lr, wd, momentum, share):
    """Algorithm 1 of arXiv 2504.05295, each matrix with its longer side up."""
    torch.manual_seed(0)
    ranks = [max(1, round(share * min(p.shape))) for p in params]
    q = [torch.randn(min(p.shape), r).double().numpy() for p, r in zip(params, ranks)]
    m = [0.0 * p for p in params]
    for t in range(STEPS):
        for i, g in enumerate(grads(t, params)):
            b = m[i] + g
            up = b if b.shape[0] >= b.shape[1] else b.T
            left, _ = np.linalg.qr(up @ q[i])
            right = up.T @ left
            up = up - (1 - momentum) * left @ right.T
            q[i] = right / (np.sqrt((right**2).sum(0)) + 1e-8)
            m[i] = up if b.shape[0] >= b.shape[1] else up.T
            step = left @ q[i].T
            step = step if b.shape[0] >= b.shape[1] else step.T
            rows, columns = g.shape
            params[i] = (1 - lr * wd) * params[i] - lr * math.sqrt(rows / columns) * step


def badam(params, grads, lr, wd, beta1, beta2, eps, blocks, every):
    """Algorithm 1 of arXiv 2404.02827: random reshuffling of blocks, AdamW from zero on each."""
    torch.manual_seed(0)
    # By hand: 24, 24, 5 and 3 elements in two blocks of about 28, by the middle of each tensor.
    block = [0, 1, 1, 1]
    for t in range(STEPS):
        if t % (blocks * every) == 0:
            order = torch.randperm(blocks).tolist()
        if t % every == 0:
            m, v = [0.0 * p for p in params], [0.0 * p for p in params]
        k = t % every + 1
        for i, g in enumerate(grads(t, params)):
            if block[i] != order[t // every % blocks]:
                continue
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            u = (m[i] / (1 - beta1**k)) / (np.sqrt(v[i] / (1 - beta2**k)) + eps)
            params[i] = (1 - lr * wd) * params[i] - lr * u


APOLLO = {**ADAM, "gap": 10, "eps": 1e-6}
DRAWN = [
    Row("apollo", apollo, {**APOLLO, "rank": 2, "scale": 1.0, "factor": "channel"}, package="",
        shapes=MATRICES, float32=5e-6),
    Row("apollo", apollo, {**APOLLO, "rank": 1, "scale": 128.0, "factor": "tensor"}, package="",
        shapes=MATRICES, float32=5e-6, label="mini"),
    Row("dion", dion, {**ROWS, "share": 0.5}, package="", shapes=MATRICES, float32=1e-5),
    Row("badam", badam, {**ADAM, "blocks": 2, "every": 5}, package=""),
]  # fmt: skip


@pytest.mark.parametrize("row", DRAWN, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_submission_that_draws_equals_its_formula(row, dtype):
    torch.manual_seed(0)
    mine = parity.ours(row, dtype)
    params = [p.double().numpy() for p in start(dtype, row.shapes)]
    row.second(params, lambda t, ps: [gradient(p, 0, t, i) for i, p in enumerate(ps)], **row.hp)
    limit = row.float32 if dtype == torch.float32 else row.float64
    assert error(mine, [torch.from_numpy(p) for p in params]) <= limit


# What is evaluated, and what hangs on progress.


def stepped(name, changes, steps, shapes=SHAPES, progress=lambda step: 0.0):
    """Return module, hyperparameters, parameters and state after each of some steps."""
    module, hp = discover.load(discover.find(name)), hyperparameters(name, changes)
    params = start(torch.float64, shapes)
    state = module.init(params, hp)
    for step in range(steps):
        grads = [gradient(p, 0, step, i) for i, p in enumerate(params)]
        module.update(params, grads, state, hp, progress(step))
        yield module, params, state


@pytest.mark.parametrize("name", ["schedule_free_radam", "schedule_free_sgd", "splus"])
def test_average_equals_its_peer_in_evaluation_mode(name):
    row = next(row for row in PEERS if row.submission == name)
    pytest.importorskip(row.package, reason="the peer is not installed")
    params = [torch.nn.Parameter(p) for p in start(torch.float64, row.shapes)]
    peer = row.second(params)
    *_, (module, mine, state) = stepped(name, row.hp, STEPS, row.shapes)
    for step in range(STEPS):
        for i, p in enumerate(params):
            p.grad = gradient(p.detach(), 0, step, i)
        peer.step()
    peer.eval()
    limit = max(row.float64, 1e-10)
    assert error(module.evaluate_view(mine, state), [p.detach() for p in params]) <= limit


def test_lookahead_evaluates_the_slow_weights():
    seen = [
        ([p.clone() for p in params], module.evaluate_view(params, state))
        for module, params, state in stepped("lookahead", {"k": 4}, 8)
    ]
    assert error(*seen[7]) == 0.0
    assert error(*seen[6]) > 1e-3


def test_ademamix_ramps_its_slow_average():
    """Half-way, α is half and the half-life of the slow average is half-way to its own."""
    module, hp = discover.load(discover.find("ademamix")), hyperparameters("ademamix", {})
    hp.warmup = 0.1
    half = lambda beta: math.log(0.5) / math.log(beta)  # noqa: E731
    alpha, beta3 = module.ramped(hp, 0.5)
    assert alpha == pytest.approx(hp.alpha / 2)
    assert half(beta3) == pytest.approx((half(hp.beta1) + half(hp.beta3)) / 2)
    assert module.ramped(hp, 0.0)[0] == 0.0
    assert module.ramped(hp, 0.0)[1] == pytest.approx(hp.beta1)
    assert module.ramped(hp, 1.0) == (hp.alpha, hp.beta3)


def test_badam_keeps_moments_of_one_block_alone():
    changes = {"blocks": 2, "every": 3}
    for _, _, state in stepped("badam", changes, 12):
        assert [int(b) for b in state["block"]] == [0, 1, 1, 1]
        assert [int(o) for o in state["offset"]] == [0, 0, 24, 29]
        assert state["m"].numel() == state["v"].numel() == 32


def test_badam_gives_every_turn_a_block_to_train():
    """A tensor of half of all elements fills two shares: no share in between is left empty."""
    shapes = [(16, 8), (8,), (12, 6), (6, 8)]
    hp = hyperparameters("badam", {"blocks": 8, "every": 1})
    params = start(torch.float64, shapes)
    state = discover.load(discover.find("badam")).init(params, hp)
    assert [int(b) for b in state["block"]] == [0, 1, 2, 3]
    before = [[p.clone() for p in params]]
    for _, params, _ in stepped("badam", {"blocks": 8, "every": 1}, 4, shapes):
        before.append([p.clone() for p in params])
    moved = [
        [i for i, (a, b) in enumerate(zip(*pair, strict=True)) if not torch.equal(a, b)]
        for pair in pairwise(before)
    ]
    assert sorted(i for step in moved for i in step) == [0, 1, 2, 3]
    assert all(moved)


def test_tiger_moves_a_matrix_of_zeros():
    module, hp = discover.load(discover.find("tiger")), hyperparameters("tiger", {"lr": 0.01})
    params = [torch.zeros(3, 2, dtype=torch.float64)]
    module.update(params, [torch.ones_like(params[0])], module.init(params, hp), hp, 0.0)
    assert torch.equal(params[0], torch.full_like(params[0], -0.005))


@pytest.mark.parametrize("name", ["scion", "sign_lmo"])
def test_conditional_gradients_keep_weights_within_their_ball(name):
    hp = {"lr": 0.3, "rho": 0.5} | ({"constrained": True} if name == "scion" else {})
    *_, (_, params, _) = stepped(name, hp, 60, MATRICES)
    for p in params:
        rows, columns = p.shape
        if name == "sign_lmo":
            assert float(p.abs().max()) <= 0.5 / columns * (1 + TIGHT)
        else:
            # Newton-Schulz leaves singular values of up to 1.2.
            assert float(torch.linalg.matrix_norm(p, 2)) <= 1.2 * 0.5 * math.sqrt(rows / columns)
