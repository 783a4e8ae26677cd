"""Optimistic Adam: Adam's step, and one along its change since the last step.

Daskalakis, Ilyas, Syrgkanis and Zeng, "Training GANs with Optimism", arXiv 1711.00141, Algorithm 1.

    p ← p(1 − lr·wd) − 2·lr·u + lr·last u, the last u 0 at first;  u = m̂/(√v̂ + eps)

State: m, v and the last u, three words per parameter; the step.
Departures from the paper: decoupled decay, warm-up and decay of lr.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.first_order import adamw, optimistic_sgd

ELEMENTWISE = True
SPACE = adamw.SPACE


def init(params, hp):
    return adamw.init(params, hp) | {"last": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, u, t = hp.lr * warmup_cosine(progress, hp.warmup), ops.zeros(params), state["step"]
    betas = (hp.beta1, hp.beta2)
    ops.adam_(u, grads, state["m"], state["v"], t, -1.0, betas, hp.eps)
    torch._foreach_mul_(params, 1.0 - lr * hp.wd)
    optimistic_sgd.lean_(params, u, state, lr, "plain")
