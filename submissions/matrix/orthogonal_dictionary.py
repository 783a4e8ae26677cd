"""Online Frank-Wolfe: a running gradient, and steps to the matrix of the ball that fits it best.

Xue and Lau, "Online Orthogonal Dictionary Learning Based on Frank-Wolfe Method", arXiv 2103.01484.

    G ← (1 − ρ)·G + ρ·g;  U·S·Vᵀ = G;  D ← D + γ·(−U·Vᵀ − D);  ρ = t^−a, γ = min(1, lr·t^−b)

−U·Vᵀ minimises ⟨G, ·⟩ over the ball of the spectral norm, so that D never leaves it. It updates the
hidden matrices; AdamW updates the rest.
State: G, one word per parameter; the step.
Departures from the paper: its powers could not be read, a = 1/2 and b = 3/4 are ours, and so is lr;
the data are not whitened.
"""

import torch

from harness import ops

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    "lr": {"log": [0.1, 1.0], "default": 1.0},
    "a": {"linear": [0.3, 1.0], "default": 0.5},
    "b": {"linear": [0.5, 1.0], "default": 0.75},
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}


def init(params, hp):
    return {"g": ops.zeros(params), "step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    rho, gamma = state["step"] ** -hp.a, min(1.0, hp.lr * state["step"] ** -hp.b)
    for p, g, mean in zip(params, grads, state["g"], strict=True):
        mean.lerp_(g, rho)
        u, _, vt = torch.linalg.svd(mean, full_matrices=False)
        p.lerp_(-(u @ vt), gamma)
