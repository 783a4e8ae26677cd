"""GGT: full-matrix AdaGrad on a window of past gradients, by the Gram matrix of the window.

Agarwal et al., "Efficient Full-Matrix Adaptive Regularization", arXiv 1806.02958.

    G = the last k gradients of the whole model as columns, the present one included, each decayed
    by β2 for every step of its age;  GᵀG = V·S²·Vᵀ,  U = G·V·S⁻¹
    m ← β1·m + (1 − β1)g;  u = m/ε + U·(1/(S + ε) − 1/ε)·Uᵀm;  p ← p(1 − lr·wd) − lr·u

u is the inverse of (GGᵀ)^(1/2) + εI times m. Most of m lies in the window, where u has about the
size that m has in units of gradients, so lr is the length of a step.
State: k gradients and m, k + 1 words per parameter; GᵀG; the step.
Departures from the paper: k is 32 by default; directions with S below 1e-6 of the largest are left
to 1/ε; the decay is decoupled.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

SPACE = {
    "lr": {"log": [0.3, 30.0]},
    "wd": {"log": [1e-5, 1e-2]},
    "beta1": 0.9,
    "beta2": {"choice": [0.99, 0.95, 1.0]},
    "eps": {"log": [1e-2, 1.0]},
    "history": {"choice": [32, 16, 64]},
    "warmup": 0.05,
}


def init(params, hp):
    past = [p.new_zeros(hp.history, p.numel()) for p in params]
    gram = torch.zeros(hp.history, hp.history, dtype=torch.float64)
    return {"past": past, "m": ops.zeros(params), "gram": gram, "step": 0}


def weights(gram, products, eps):
    """Return w, for which U·(1/(S + ε) − 1/ε)·Uᵀx = G·w, from GᵀG and products Gᵀx, float64."""
    values, vectors = torch.linalg.eigh(gram)
    s = values.clamp(min=0.0).sqrt()
    kept = s > 1e-6 * s.max()
    middle = torch.where(kept, (1 / (s + eps) - 1 / eps) / values.clamp(min=1e-300), 0.0)
    return vectors @ (middle * (vectors.mT @ products))


def update(params, grads, state, hp, progress):
    slot, gram = state["step"] % hp.history, state["gram"]
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    state["step"] += 1
    torch._foreach_lerp_(state["m"], grads, 1.0 - hp.beta1)
    torch._foreach_mul_(state["past"], hp.beta2)
    fresh, products = torch.zeros_like(gram[0]), torch.zeros_like(gram[0])
    for past, g, m in zip(state["past"], grads, state["m"], strict=True):
        past[slot] = g.flatten()
        fresh += (past @ g.flatten()).double().cpu()
        products += (past @ m.flatten()).double().cpu()
    gram.mul_(hp.beta2**2)
    gram[slot], gram[:, slot] = fresh, fresh
    w = weights(gram, products, hp.eps)
    for p, past, m in zip(params, state["past"], state["m"], strict=True):
        p.mul_(1.0 - lr * hp.wd).sub_(m / hp.eps + (w.to(m) @ past).view_as(m), alpha=lr)
