"""Delayed AdaGrad-Norm: one step size from the past gradients alone, with an exponent of its own.

Li and Orabona, "On the Convergence of Stochastic Gradient Descent with Adaptive Stepsizes", arXiv
1805.08114.

    p ← p(1 − lr·wd) − lr·g/(b0² + S)^(1/2 + eps);  S ← S + ‖g‖², over all parameters

State: S, one number.
Departures from the paper: decoupled decay, warm-up and decay of lr. The paper's text was not at
hand: the rule is by memory.
"""

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [0.3, 30.0]},
    "wd": {"log": [1e-4, 1e-2]},
    "b0": {"log": [1.0, 30.0]},
    "eps": {"choice": [0.0, 0.1]},
    "warmup": 0.05,
}


def init(params, hp):
    return {"square": 0.0}


def update(params, grads, state, hp, progress):
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    b = (hp.b0**2 + state["square"]) ** (0.5 + hp.eps)
    ops.sgd_(params, grads, lr / b, hp.wd * b)
    state["square"] += ops.global_norm(grads) ** 2
