"""Clipped AdaGrad-Norm with delay: clipped gradients, and a step size one step old.

Chezhegov et al., "Clipping Improves Adam-Norm and AdaGrad-Norm when the Noise Is Heavy-Tailed",
arXiv 2406.04443 (Clip-RAdaGradD of its first version).

    ĝ = g·min(1, c/‖g‖), global norm;  p ← p(1 − lr·wd) − lr·ĝ/b;  b² ← b² + η·‖ĝ‖²

State: b², one number.
Departures from the paper: decoupled decay, warm-up and decay of lr. Order, delay and clipping
agree with the authors' notebook, where η = lr²; here η is free.
"""

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [0.3, 30.0]},
    "clip": {"log": [0.1, 10.0]},
    "eta": {"log": [1e-2, 1.0]},
    "wd": {"log": [1e-4, 1e-2]},
    "b0": 1.0,
    "warmup": 0.05,
}


def init(params, hp):
    return {"square": hp.b0**2}


def update(params, grads, state, hp, progress):
    norm, b = ops.global_norm(grads), state["square"] ** 0.5
    factor = hp.clip / norm if norm > hp.clip else 1.0
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    step = lr * factor / b
    ops.sgd_(params, grads, step, hp.wd * lr / step if step else 0.0)
    state["square"] += hp.eta * (factor * norm) ** 2
