"""AdaGrad-Norm: SGD with one step size, which falls with the sum of squared gradient norms.

Ward, Wu and Bottou, "AdaGrad Stepsizes", arXiv 1806.01811; Attia and Koren, "SGD with AdaGrad
Stepsizes", arXiv 2302.08783.

    b² ← b² + ‖g‖², the norm over all parameters;  p ← p(1 − lr·wd) − lr·g/b

State: b², one number.
Departures from the paper: decoupled decay, warm-up and decay of lr.
"""

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [0.3, 30.0]},
    "wd": {"log": [1e-4, 1e-2]},
    "b0": 1e-2,
    "warmup": 0.05,
}


def init(params, hp):
    return {"square": hp.b0**2}


def update(params, grads, state, hp, progress):
    state["square"] += ops.global_norm(grads) ** 2
    lr, b = hp.lr * warmup_cosine(progress, hp.warmup), state["square"] ** 0.5
    ops.sgd_(params, grads, lr / b, hp.wd * b)
