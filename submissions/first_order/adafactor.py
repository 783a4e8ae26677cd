"""Adafactor: Adam's second moment kept as row and column means.

Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", arXiv
1804.04235, Algorithms 4 to 6, without momentum.

    β2 = 1 − t^(−0.8);  r ← β2·r + (1 − β2)·rowmean(g²);  c ← likewise by columns;  v = r·c/mean(r)
    u = g/√v;  u ← u/max(1, RMS(u)/d);  α = max(eps2, RMS(p))·min(lr, 1/√t)
    p ← p(1 − lr·wd) − α·u.  Tensors of one dimension keep a full v.

State: r and c, one row and one column per matrix; v for vectors; the step.
Departures from the paper: v is at least the square of the machine epsilon, as in torch, while the
paper adds 1e-30 to g²; lr has a schedule beside the 1/√t; decoupled decay.
"""

import torch

from harness.schedules import warmup_cosine

SPACE = {
    "lr": {"log": [1e-2, 0.3]},
    "wd": {"log": [1e-4, 1e-1]},
    "decay": 0.8,
    "d": 1.0,
    "eps2": 1e-3,
    "warmup": 0.05,
}


def init(params, hp):
    rows = [p.new_zeros(*p.shape[:-1], 1) if p.ndim > 1 else torch.zeros_like(p) for p in params]
    columns = [
        p.new_zeros(*p.shape[:-2], 1, p.shape[-1]) if p.ndim > 1 else p.new_zeros(0) for p in params
    ]
    return {"r": rows, "c": columns, "step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, mix = hp.lr * warmup_cosine(progress, hp.warmup), state["step"] ** -hp.decay
    rho = min(lr, state["step"] ** -0.5)
    scaled = []
    for p, g, r, c in zip(params, grads, state["r"], state["c"], strict=True):
        tiny = torch.finfo(p.dtype).eps
        if p.ndim > 1:
            v = g * g
            r.lerp_(v.mean(dim=-1, keepdim=True), mix)
            c.lerp_(v.mean(dim=-2, keepdim=True), mix)
            torch.mul(r / r.mean(dim=-2, keepdim=True).clamp_(min=tiny), c, out=v)
        else:
            v = r.lerp_(g * g, mix).clone()
        scaled.append(v.clamp_(min=tiny**2).rsqrt_().mul_(g))
    norms = zip(torch._foreach_norm(params), torch._foreach_norm(scaled), strict=True)
    for p, u, (ours, theirs) in zip(params, scaled, norms, strict=True):
        size = p.numel() ** 0.5
        alpha = max(hp.eps2, float(ours) / size) * rho / max(1.0, float(theirs) / size / hp.d)
        p.mul_(1.0 - lr * hp.wd).add_(u, alpha=-alpha)
