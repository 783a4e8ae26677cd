"""RMSProp: the gradient divided by the root of its recent mean square.

Tieleman and Hinton, "Lecture 6.5: rmsprop", Coursera, 2012.

    v ← β2·v + (1 − β2)g²;  u = g/(√v + eps);  b ← momentum·b + u + wd·p;  p ← p − lr·b

State: v and b, two words per parameter (v alone with momentum 0).
Departures from the paper: eps, momentum and decay, as is common; v starts at 0 with eps outside
the root, as in torch.
"""

import math

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [3e-4, 1e-2]},
    "beta2": {"choice": [0.99, 0.95, 0.9]},
    "momentum": {"choice": [0.0, 0.9]},
    "wd": {"log": [1e-2, 1.0]},
    "eps": 1e-8,
    "warmup": 0.05,
}


def init(params, hp):
    state = {"v": ops.zeros(params)}
    return state | {"b": ops.zeros(params)} if hp.momentum else state


def update(params, grads, state, hp, progress):
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    # Adam with β1 = 0 and lr = −1, applied to zeros, gives the normalised gradient.
    u, scratch, betas = ops.zeros(params), ops.zeros(params), (0.0, hp.beta2)
    ops.adam_(u, grads, scratch, state["v"], math.inf, -1.0, betas, hp.eps)
    ops.sgd_(params, u, lr, hp.wd, hp.momentum, state.get("b", ()))
