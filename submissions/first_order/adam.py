"""Adam: bias-corrected moments of a gradient that includes the decay.

Kingma and Ba, "Adam: A Method for Stochastic Optimization", arXiv 1412.6980, Algorithm 1.

    g ← g + wd·p;  m ← β1·m + (1 − β1)g;  v ← β2·v + (1 − β2)g²;  p ← p − lr·m̂/(√v̂ + eps)

State: m and v, two words per parameter; the step.
Departures from the paper: L2 regularisation (adamw has the decoupled form).
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.first_order import adamw

ELEMENTWISE = True
SPACE = {**adamw.SPACE, "wd": {"log": [1e-7, 1e-4]}}
init = adamw.init


def update(params, grads, state, hp, progress):
    state["step"] += 1
    m, v, step = state["m"], state["v"], state["step"]
    lr, betas = hp.lr * warmup_cosine(progress, hp.warmup), (hp.beta1, hp.beta2)
    g = [torch.add(g, p, alpha=hp.wd) for g, p in zip(grads, params, strict=True)]
    ops.adam_(params, g, m, v, step, lr, betas, hp.eps)
