"""Adam-Norm: momentum divided by one running root mean square of the gradient's norm.

The method of Chezhegov et al., "Clipping Improves Adam-Norm and AdaGrad-Norm when the Noise Is
Heavy-Tailed", arXiv 2406.04443, without clipping.

    m ← β1·m + (1 − β1)g;  b² ← β2·b² + (1 − β2)‖g‖², over all parameters
    p ← p(1 − lr·wd) − lr·m̂/(√b̂² + eps)

State: m, one word per parameter; b² and the step.
Departures from the paper: bias corrections, decoupled decay, warm-up and decay of lr.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [0.03, 3.0]},
    "wd": {"log": [1e-3, 1e-1]},
    "beta1": {"choice": [0.9, 0.95]},
    "beta2": {"choice": [0.99, 0.999]},
    "eps": 1e-8,
    "warmup": 0.05,
}


def init(params, hp):
    return {"m": ops.zeros(params), "square": 0.0, "step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, t = hp.lr * warmup_cosine(progress, hp.warmup), state["step"]
    torch._foreach_lerp_(state["m"], grads, 1.0 - hp.beta1)
    state["square"] += (1.0 - hp.beta2) * (ops.global_norm(grads) ** 2 - state["square"])
    scale = (state["square"] / (1.0 - hp.beta2**t)) ** 0.5 + hp.eps
    torch._foreach_mul_(params, 1.0 - lr * hp.wd)
    torch._foreach_add_(params, state["m"], alpha=-lr / (1.0 - hp.beta1**t) / scale)
