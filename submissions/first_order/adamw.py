"""AdamW: Adam with decoupled weight decay.

Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101.

    p ← p(1 − lr·wd);  m ← β1·m + (1 − β1)g;  v ← β2·v + (1 − β2)g²;  p ← p − lr·m̂/(√v̂ + eps)

State: m and v, two words per parameter; the step.
Departures from the paper: the decay is multiplied by lr, as in torch; it acts on every parameter.
"""

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [1e-3, 2e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "beta1": 0.9,
    "beta2": {"choice": [0.95, 0.99, 0.999]},
    "eps": 1e-8,
    "warmup": 0.05,
}


def init(params, hp):
    return {"m": ops.zeros(params), "v": ops.zeros(params), "step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    m, v, step = state["m"], state["v"], state["step"]
    lr, betas = hp.lr * warmup_cosine(progress, hp.warmup), (hp.beta1, hp.beta2)
    ops.adam_(params, grads, m, v, step, lr, betas, hp.eps, hp.wd)
