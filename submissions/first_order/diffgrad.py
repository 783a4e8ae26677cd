"""diffGrad: Adam that slows down where the gradient hardly changes.

Dubey et al., "diffGrad: An Optimization Method for Convolutional Neural Networks", arXiv
1909.11015.

    ξ = σ(|h − g|), h the last gradient;  m, v as in Adam
    p ← p(1 − lr·wd) − lr·√(1 − β2ᵗ)/(1 − β1ᵗ)·ξ·m/(√v + eps);  h ← g

State: m, v and h, three words per parameter; the step.
Departures from the paper: decoupled decay.
"""

import math

from harness import ops
from harness.schedules import warmup_cosine
from submissions.first_order import adamw

ELEMENTWISE = True
SPACE = adamw.SPACE


def init(params, hp):
    return adamw.init(params, hp) | {"h": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, betas, us = (
        hp.lr * warmup_cosine(progress, hp.warmup),
        (hp.beta1, hp.beta2),
        ops.zeros(params),
    )
    ops.adam_(us, grads, state["m"], state["v"], math.inf, -1.0, betas, hp.eps)
    scale = math.sqrt(1.0 - hp.beta2 ** state["step"]) / (1.0 - hp.beta1 ** state["step"])
    for p, g, h, u in zip(params, grads, state["h"], us, strict=True):
        h.sub_(g).abs_().sigmoid_()
        p.mul_(1.0 - lr * hp.wd).addcmul_(u, h, value=-lr * scale)
        h.copy_(g)
