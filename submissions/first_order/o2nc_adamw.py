"""Randomly scaled AdamW: AdamW's steps times random factors of mean 1, evaluated at an average.

The AdamW form of Zhang and Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex
Optimization", arXiv 2405.09742.

    p ← p(1 − s·lr·wd) − s·lr·m̂/(√v̂ + eps),  s ~ Exp(1), one number for all parameters
    x ← average·x + (1 − average)p is evaluated

State: AdamW's m and v, and x, three words per parameter; the step.
Departures from the paper: x begins as a plain mean of the points.
"""

from harness import ops
from harness.schedules import warmup_cosine
from submissions.first_order import adamw, o2nc

ELEMENTWISE = True
SPACE = {
    **adamw.SPACE,
    "scaling": {"choice": ["exponential", "none"]},
    "average": {"choice": [0.9, 0.99]},
}
evaluate_view = o2nc.evaluate_view


def init(params, hp):
    return adamw.init(params, hp) | {"x": ops.copies(params), "taken": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr = hp.lr * warmup_cosine(progress, hp.warmup) * o2nc.drawn(hp.scaling)
    m, v, betas = state["m"], state["v"], (hp.beta1, hp.beta2)
    ops.adam_(params, grads, m, v, state["step"], lr, betas, hp.eps, hp.wd)
    o2nc.average_(params, state, hp.average)
