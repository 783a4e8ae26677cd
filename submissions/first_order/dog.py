"""DoG: SGD whose step size is (distance from the start)/√(sum of squared gradients).

Ivgi, Hinder and Carmon, "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule",
arXiv 2302.12022.

    r ← max(r, ‖p − p₀‖), at first reps·(1 + ‖p₀‖);  G ← G + ‖g‖²;  p ← p − lr·r/√(G + eps)·g
    evaluation uses the polynomial-decay average x ← x + (9/(8 + t))·(p − x)

State: p₀ and x, two words per parameter; r, G and the step.
Departures from the paper: none.
"""

import torch

from harness import ops

ELEMENTWISE = True
SPACE = {"lr": 1.0, "reps": {"log": [1e-7, 1e-3]}, "eps": 1e-8}
# The paper's γ, Section 4.
DECAY = 8.0


def init(params, hp):
    kept = {"start": ops.copies(params), "x": ops.copies(params)}
    return kept | {"reach": hp.reps * (1.0 + ops.global_norm(params)), "square": hp.eps, "step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    way = ops.global_norm(torch._foreach_sub(params, state["start"]))
    state["reach"] = max(state["reach"], way)
    state["square"] += ops.global_norm(grads) ** 2
    ops.sgd_(params, grads, hp.lr * state["reach"] / state["square"] ** 0.5)
    torch._foreach_lerp_(state["x"], params, (DECAY + 1.0) / (DECAY + state["step"]))


def evaluate_view(params, state):
    return list(state["x"])
