"""Fira: GaLore that also moves along the dropped part of the gradient, with scaling.

Chen et al., "Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint?",
arXiv 2410.01623, Algorithm 1.

    R = gP;  N = Adam(R);  S = (g − α·RPᵀ)·‖N‖/‖R‖, row by row (columns for wide matrices)
    S ← S·min(1, γ·‖S_before‖/‖S‖);  p ← p − lr·(α·NPᵀ + S);  p ← p(1 − lr·wd)

It updates the hidden matrices. AdamW updates the rest.
State: GaLore's; one number for each matrix.
Departures from the paper: the residual is g − α·RPᵀ, not g − RPᵀ, as in the authors' code.
"""

import math

import torch

from submissions.low_rank import galore

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {**galore.SPACE, "limit": 1.01}


def init(params, hp):
    last = [p.new_full((), math.inf) for p in params]
    return galore.init(params, hp) | {"last": last}


def update(params, grads, state, hp, progress):
    lr, correction, small = galore.begin(grads, state, hp, progress)
    steps = galore.adam(small, state, hp)
    for p, g, r, u, basis, last in zip(params, grads, small, steps, state["basis"], state["last"]):
        side = 1 if galore.tall(g) else 0
        gain = u.norm(dim=side, keepdim=True) / (r.norm(dim=side, keepdim=True) + 1e-8)
        rest = (g - hp.scale * galore.expand(r, basis, g)).mul_(gain)
        norm = rest.norm()
        growth = (norm / (last + 1e-8)).clamp_(min=hp.limit) / hp.limit
        last.copy_(norm / growth)
        u = torch.addcdiv(hp.scale * galore.expand(u, basis, g), rest, growth)
        p.add_(u, alpha=-lr * correction).mul_(1.0 - lr * hp.wd)
