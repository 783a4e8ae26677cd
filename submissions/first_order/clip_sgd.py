"""Clipped SGD: SGD with momentum on gradients whose global norm is at most c.

Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", arXiv
1211.5063; heavy-tailed noise: Gorbunov et al., arXiv 2005.10785.

    ĝ = g·min(1, c/‖g‖);  b ← momentum·b + ĝ + wd·p;  p ← p − lr·b

State: b, one word per parameter.
Departures from the paper: momentum (the papers' rule with momentum 0) and weight decay.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [0.03, 3.0]},
    "clip": {"log": [0.1, 10.0]},
    "momentum": {"choice": [0.9, 0.0]},
    "wd": {"log": [1e-6, 1e-3]},
    "warmup": 0.05,
}


def init(params, hp):
    return {"b": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    clipped = torch._foreach_mul(grads, ops.clip_factor(grads, hp.clip))
    ops.sgd_(params, clipped, lr, hp.wd, hp.momentum, state["b"])
