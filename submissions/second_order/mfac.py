"""M-FAC: gradients times the inverse of an empirical Fisher matrix of the last gradients.

Frantar, Kurtic, Alistarh, "M-FAC: Efficient Matrix-Free Approximations of Second-Order
Information", arXiv 2107.03356.

    G = the last k gradients of the whole model as rows, the present one included;  F = λI + GᵀG/k
    u = F⁻¹g = (g − Gᵀ(kλI + GGᵀ)⁻¹Gg)/λ;  b ← β·b + u;  p ← p(1 − lr·wd) − lr·b

State: k gradients and b, k + 1 words per parameter; GGᵀ.
Departures from the paper: k is 32 by default, not 1,024; the decay is decoupled; the inverse is
applied by solving the k x k system anew each step.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

SPACE = {
    "lr": {"log": [1e-4, 1e-2]},
    "wd": {"log": [1e-3, 1.0]},
    "momentum": 0.9,
    "damping": {"log": [1e-4, 1e-1]},
    "history": {"choice": [32, 16, 64]},
    "warmup": 0.05,
}


def init(params, hp):
    past = [p.new_zeros(hp.history, p.numel()) for p in params]
    gram = torch.zeros(hp.history, hp.history, dtype=torch.float64)
    return {"past": past, "b": ops.zeros(params), "gram": gram, "step": 0}


def update(params, grads, state, hp, progress):
    lr, slot, gram = (
        hp.lr * warmup_cosine(progress, hp.warmup),
        state["step"] % hp.history,
        state["gram"],
    )
    state["step"] += 1
    products = torch.zeros(hp.history, dtype=torch.float64)
    for past, g in zip(state["past"], grads):
        past[slot] = g.flatten()
        products += (past @ g.flatten()).double().cpu()
    gram[slot], gram[:, slot] = products, products
    ridge = hp.history * hp.damping * torch.eye(hp.history, dtype=torch.float64)
    weights = torch.linalg.solve(gram + ridge, products)
    for p, past, g, b in zip(params, state["past"], grads, state["b"]):
        u = (g - (weights.to(g) @ past).view_as(g)).div_(hp.damping)
        b.mul_(hp.momentum).add_(u)
        p.mul_(1.0 - lr * hp.wd).sub_(b, alpha=lr)
