"""AdaGrad: the gradient divided by the root of the sum of all its squares.

Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
Optimization", JMLR 12, 2011.

    s ← s + g²;  p ← p(1 − lr·wd) − lr·g/(√s + eps)

State: v = s/t, one word per parameter; the step t.
Departures from the paper: decoupled decay; the state is the mean v ← v(t − 1)/t + g²/t, not the
sum. So the step is Adam's with β1 = 0 and β2 = (t − 1)/t.
"""

import math

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [3e-3, 0.3]},
    "wd": {"log": [1e-3, 0.1]},
    "eps": 1e-10,
    "warmup": 0.05,
}


def init(params, hp):
    return {"v": ops.zeros(params), "step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    root, lr = math.sqrt(state["step"]), hp.lr * warmup_cosine(progress, hp.warmup)
    betas, eps, decay = (0.0, 1.0 - 1.0 / state["step"]), hp.eps / root, hp.wd * root
    scratch = ops.zeros(params)
    ops.adam_(params, grads, scratch, state["v"], math.inf, lr / root, betas, eps, decay)
