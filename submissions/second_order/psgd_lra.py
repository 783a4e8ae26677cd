"""PSGD LRA: the whole gradient whitened by a diagonal plus a low rank, fitted on a Lie group.

Li, "Black Box Lie Group Preconditioners for SGD", arXiv 2211.04422; "Stochastic Hessian Fittings
with Lie Groups", arXiv 2402.11858. P = QᵀQ, h = g, v ~ N(0, I), one vector of all parameters.

    lra     Q = (I + U·Vᵀ)·diag(d);  a = Q·h, b = Q⁻ᵀ·v
            d ← d − μ·d⊙(Ph⊙h − v⊙P⁻¹v);  by a coin U or V:
            U ← U − μ(aaᵀ − bbᵀ)V(I + VᵀU)  or  V ← V − μ(I + VUᵀ)(aaᵀ − bbᵀ)U
    xmat    Q = diag(a) + adiag(b), ~ reverses a vector
            A = (Qh)² − w², B = Qh⊙(Qh)~ − w⊙w~, w = Q⁻ᵀv
            a ← a − μ(A⊙a + B⊙b~),  b ← b − μ(A⊙b + B⊙a~)
    p ← p(1 − lr·wd) − lr·P·m̂, at most 1.1 in root mean square;  m the momentum

μ is fit_lr over an upper bound of the update's size. P tends to (E ggᵀ)^(−1/2).
State: m; d, U and V: 2 + 2·rank words per parameter (xmat: 3); the step.
Departures from the paper: whitening alone, without Hessian products; the step is clipped.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

SPACE = {
    # P·m̂ has the size of Adam's step; the authors take 1e-3 to 1e-2.
    "lr": {"log": [5e-4, 2e-2]},
    "wd": {"log": [1e-3, 1.0]},
    "form": {"choice": ["lra", "xmat"], "tuned": False},
    "rank": {"choice": [10, 2, 20]},
    "momentum": 0.9,
    "fit_lr": 0.1,
    "warmup": 0.05,
}
VARIANTS = {"psgd_xmat": {"form": "xmat"}}


def init(params, hp):
    sizes, first = [p.numel() for p in params], params[0]
    factors = {"d": [p.new_zeros(p.numel()) for p in params]}
    if hp.form == "lra":
        scale = (hp.rank * sum(sizes)) ** -0.5
        for name in ("U", "V"):
            whole = scale * torch.randn(sum(sizes), hp.rank).to(first)
            factors[name] = [part.clone() for part in whole.split(sizes)]
    else:
        factors["b"] = [p.new_zeros(p.numel()) for p in params]
    return {"m": ops.zeros(params), "step": 0} | factors


def product(u, v, x):
    """Return (I + u·vᵀ)x."""
    return x + u @ (v.mT @ x)


def inverse(u, v, x):
    """Return (I + u·vᵀ)⁻¹x."""
    small = torch.eye(u.shape[1], dtype=u.dtype, device=u.device) + v.mT @ u
    return x - u @ torch.linalg.solve(small, v.mT @ x)


def fit_lra_(d, u, v, h, x, rate, coins):
    """Move d and one of u and v towards Q of the pair (h, x)."""
    if coins[0] < 0.01:
        ratio = (u.norm() / v.norm()).sqrt()
        u.div_(ratio), v.mul_(ratio)
    a, b = product(u, v, d * h), inverse(v, u, x / d)
    slope = d * product(v, u, a) * h - x * inverse(u, v, b) / d
    eye = torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
    inner = eye + v.mT @ u
    d.sub_(rate / (slope.abs().max() + 1e-30) * d * slope)
    left, right = (u, v) if coins[1] < 0.5 else (v, u)
    to_a, to_b = a @ right, b @ right
    size = a.norm() * (right @ to_a).norm() + b.norm() * (right @ to_b).norm() + 1e-30
    if coins[1] < 0.5:
        way = torch.outer(a, to_a @ inner) - torch.outer(b, to_b @ inner)
    else:
        way = torch.outer(product(v, u, a), to_a) - torch.outer(product(v, u, b), to_b)
    left.sub_(rate / size * way)


def fit_xmat_(a, b, h, x, rate):
    """Move a and b towards Q of the pair (h, x)."""
    qh = a * h + b * h.flip(0)
    w = (a.flip(0) * x - b.flip(0) * x.flip(0)) / (a * a.flip(0) - b * b.flip(0))
    along, across = qh**2 - w**2, qh * qh.flip(0) - w * w.flip(0)
    if len(a) % 2:
        across[len(a) // 2] = 0.0
    step = rate / ((qh**2 + w**2).max() + 1e-30)
    new = a - step * (along * a + across * b.flip(0))
    b.sub_(step * (along * b + across * a.flip(0)))
    a.copy_(new)


def conditioned(factors, m):
    """Return P·m."""
    d = factors["d"]
    if "U" in factors:
        u, v = factors["U"], factors["V"]
        return d * product(v, u, product(u, v, d * m))
    b = factors["b"]
    cross = d * b + (d * b).flip(0)
    return (d**2 + b.flip(0) ** 2) * m + cross * m.flip(0)


def update(params, grads, state, hp, progress):
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    state["step"] += 1
    torch._foreach_lerp_(state["m"], grads, 1.0 - hp.momentum)
    sizes = [p.numel() for p in params]
    h = torch.cat([g.flatten() for g in grads])
    factors = {name: torch.cat(state[name]) for name in ("d", "U", "V", "b") if name in state}
    if state["step"] == 1:
        factors["d"].fill_(float(h.square().mean().clamp(min=1e-12)) ** -0.25)
    x, coins = torch.randn_like(h), torch.rand(2).tolist()
    if hp.form == "lra":
        fit_lra_(*factors.values(), h, x, hp.fit_lr, coins)
    else:
        fit_xmat_(*factors.values(), h, x, hp.fit_lr)
    for name, whole in factors.items():
        torch._foreach_copy_(state[name], whole.split(sizes))
    m = torch.cat([m.flatten() for m in state["m"]]) / (1.0 - hp.momentum ** state["step"])
    way = conditioned(factors, m)
    way = way * (1.1 / (way.square().mean().sqrt() + 1e-6)).clamp(max=1.0)
    for p, part in zip(params, way.split(sizes), strict=True):
        p.mul_(1.0 - lr * hp.wd).sub_(part.view_as(p), alpha=lr)
