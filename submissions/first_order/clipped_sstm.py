"""Clipped SSTM: similar triangles whose gradients are clipped the harder, the longer the step.

Gorbunov, Danilova and Gasnikov, "Stochastic Optimization with Heavy-Tailed Noise via Accelerated
Gradient Clipping", arXiv 2005.10785, Algorithm 1; with restarts: its Algorithm 3.

    α = (k + 2)·lr/2;  A' = A + α;  x = (A·y + α·z)/A'
    z ← z − α·clip(g(x), clip/α);  y ← (A·y + α·z)/A'

lr is 1/(aL) of the paper, the clipping is by the norm of all parameters. Training uses x and
evaluation y. After `restart` steps k and A are 0 again, and z is y.

State: y and z, two words per parameter; A and k.
Departures from the paper: restarts come at even distances, where the paper derives their number.
"""

import torch

from harness import ops

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [1e-3, 1.0]},
    "clip": {"log": [0.01, 10.0]},
    "restart": {"choice": [100, 20, 500]},
}


def init(params, hp):
    return {"y": ops.copies(params), "z": ops.copies(params), "weight": 0.0, "k": 0}


def update(params, grads, state, hp, progress):
    alpha = (state["k"] + 2) * hp.lr / 2
    factor = ops.clip_factor(grads, hp.clip / alpha)
    torch._foreach_add_(state["z"], grads, alpha=-alpha * factor)
    torch._foreach_lerp_(state["y"], state["z"], alpha / (state["weight"] + alpha))
    state["weight"], state["k"] = state["weight"] + alpha, state["k"] + 1
    if state["k"] == hp.restart:
        torch._foreach_copy_(state["z"], state["y"])
        state["weight"], state["k"] = 0.0, 0
    ahead = (state["k"] + 2) * hp.lr / 2
    torch._foreach_copy_(params, state["y"])
    torch._foreach_lerp_(params, state["z"], ahead / (state["weight"] + ahead))


def evaluate_view(params, state):
    return list(state["y"])
