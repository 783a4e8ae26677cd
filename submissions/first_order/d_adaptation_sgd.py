"""D-Adaptation SGD: momentum SGD that estimates its step size from a bound on the distance.

Defazio and Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", arXiv 2301.07733,
Algorithm 4; the estimate is the one of the authors' package.

    λ = d·lr/‖g₀‖;  g ← g + wd·p;  r ← r + λ·⟨g, s⟩;  s ← s + λ·g;  d' = max(d, 2r/‖s‖)
    z = p₀ − s;  p ← momentum·p + (1 − momentum)z;  d ← d'

State: p₀ and s, two words per parameter; d, r and ‖g₀‖.
Departures from the paper: none. lr is 1, times its schedule; d may grow at any rate.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.first_order import prodigy

ELEMENTWISE = True
SPACE = {
    "lr": {"choice": [1.0, 0.5, 2.0]},
    "d0": 1e-6,
    "wd": {"log": [1e-7, 1e-4]},
    "momentum": {"choice": [0.9, 0.0]},
    "warmup": 0.05,
}


def init(params, hp):
    return {"start": ops.copies(params), "s": ops.zeros(params), "d": hp.d0, "r": 0.0, "first": 0.0}


def update(params, grads, state, hp, progress):
    if state["first"] == 0.0:
        state["first"] = ops.global_norm(grads)
        if state["first"] == 0.0:
            return
    step = state["d"] * hp.lr * warmup_cosine(progress, hp.warmup) / state["first"]
    g = torch._foreach_add(grads, params, alpha=hp.wd)
    pairs = zip(g, state["s"], strict=True)
    state["r"] += step * prodigy.total(torch.dot(a.flatten(), b.flatten()) for a, b in pairs)
    torch._foreach_add_(state["s"], g, alpha=step)
    size = ops.global_norm(state["s"])
    if size:
        state["d"] = max(state["d"], 2.0 * state["r"] / size)
    z = torch._foreach_sub(state["start"], state["s"])
    torch._foreach_lerp_(params, z, 1.0 - hp.momentum)
