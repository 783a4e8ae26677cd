"""AMSGrad: AdamW whose second moment never falls.

Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond", arXiv 1904.09237, Algorithm 2.

    m ← β1·m + (1 − β1)g;  v ← β2·v + (1 − β2)g²;  w ← max(w, v)
    p ← p(1 − lr·wd) − lr·m/(√w + eps), with Adam's bias corrections or without

State: m, v and w, three words per parameter; the step.
Departures from the paper: eps; decoupled decay; with bias_correction True, the corrections of
torch's form, which give another trajectory.
"""

import math

from harness import ops
from harness.schedules import warmup_cosine
from submissions.first_order import adamw

ELEMENTWISE = True
SPACE = {**adamw.SPACE, "bias_correction": {"choice": [True, False]}}


def init(params, hp):
    return adamw.init(params, hp) | {"w": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    m, v, step = state["m"], state["v"], state["step"] if hp.bias_correction else math.inf
    lr, betas = hp.lr * warmup_cosine(progress, hp.warmup), (hp.beta1, hp.beta2)
    ops.adam_(params, grads, m, v, step, lr, betas, hp.eps, hp.wd, largest=state["w"])
