"""NovoGrad: momentum of gradients that are divided by a running norm of their tensor.

Ginsburg et al., "Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep
Networks", arXiv 1905.11286, Algorithm 1.

    v ← β2·v + (1 − β2)‖g‖², at first ‖g‖², one number for each tensor
    m ← β1·m + g/(√v + eps) + wd·p, at first without m;  p ← p − lr·m

State: m, one word per parameter; v, one number for each tensor; the step.
Departures from the paper: none.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

SPACE = {
    "lr": {"log": [1e-3, 0.1]},
    "wd": {"log": [1e-4, 1e-2]},
    "beta1": 0.95,
    "beta2": {"choice": [0.98, 0.25]},
    "eps": 1e-8,
    "warmup": 0.05,
}


def init(params, hp):
    return {"m": ops.zeros(params), "v": [p.new_zeros(()) for p in params], "step": 0}


def update(params, grads, state, hp, progress):
    share, state["step"] = 1.0 - hp.beta2 if state["step"] else 1.0, state["step"] + 1
    squares = torch._foreach_pow(torch._foreach_norm(grads), 2)
    torch._foreach_lerp_(state["v"], squares, share)
    scale = torch._foreach_sqrt(state["v"])
    torch._foreach_add_(scale, hp.eps)
    torch._foreach_mul_(state["m"], hp.beta1)
    torch._foreach_add_(state["m"], torch._foreach_div(grads, scale))
    torch._foreach_add_(state["m"], params, alpha=hp.wd)
    torch._foreach_add_(params, state["m"], alpha=-hp.lr * warmup_cosine(progress, hp.warmup))
