"""WNGrad: SGD with one step size, which falls as the gradients come in.

Wu, Ward and Bottou, "WNGrad: Learn the Learning Rate in Gradient Descent", arXiv 1803.02865.

    b ← b + ‖g‖²/b, the norm over all parameters;  p ← p(1 − lr·wd) − lr·g/b

State: b, one number.
Departures from the paper: decoupled decay, warm-up and decay of lr. The paper's text was not at
hand: the rule is by memory, and b0 is free.
"""

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [0.3, 30.0]},
    "wd": {"log": [1e-4, 1e-2]},
    "b0": {"log": [0.1, 10.0]},
    "warmup": 0.05,
}


def init(params, hp):
    return {"b": hp.b0}


def update(params, grads, state, hp, progress):
    state["b"] += ops.global_norm(grads) ** 2 / state["b"]
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    ops.sgd_(params, grads, lr / state["b"], hp.wd * state["b"])
