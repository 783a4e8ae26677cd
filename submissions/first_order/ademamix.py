"""AdEMAMix: AdamW whose numerator adds a second, very slow average of the gradients.

Pagliardini, Ablin and Grangier, "The AdEMAMix Optimizer: Better, Faster, Older", arXiv 2409.03137,
Algorithm 1.

    m ← β1·m + (1 − β1)g;  s ← β3·s + (1 − β3)g;  v ← β2·v + (1 − β2)g²
    p ← p(1 − lr·wd) − lr·(m̂ + α·s)/(√v̂ + eps);  s has no bias correction

α rises linearly from 0, and the half-life of s from that of m to its own, during the share `ramp`
of the horizon. Without warm-up there is no such ramp either.
State: m, s and v, three words per parameter; the step.
Departures from the paper: none.
"""

import math

import torch

from harness import ops
from harness.schedules import warmup_constant, warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [1e-3, 2e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "alpha": {"choice": [5.0, 8.0, 2.0]},
    "beta1": 0.9,
    "beta2": {"choice": [0.999, 0.99]},
    "beta3": {"choice": [0.999, 0.9999]},
    "ramp": 1.0,
    "eps": 1e-8,
    "warmup": 0.05,
}


def init(params, hp):
    return {key: ops.zeros(params) for key in ("m", "slow", "v")} | {"step": 0}


def ramped(hp, progress):
    """Return α and β3 at this progress; β3 grows linearly in its half-life."""
    share = warmup_constant(progress, hp.ramp) if hp.warmup else 1.0
    if share == 1.0:
        return hp.alpha, hp.beta3
    fast, slow = math.log(hp.beta1), math.log(hp.beta3)
    beta3 = math.exp(fast * slow / ((1.0 - share) * slow + share * fast))
    return share * hp.alpha, min(beta3, hp.beta3)


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, (alpha, beta3) = hp.lr * warmup_cosine(progress, hp.warmup), ramped(hp, progress)
    m, slow, v = state["m"], state["slow"], state["v"]
    torch._foreach_lerp_(m, grads, 1.0 - hp.beta1)
    torch._foreach_lerp_(slow, grads, 1.0 - beta3)
    torch._foreach_mul_(v, hp.beta2)
    torch._foreach_addcmul_(v, grads, grads, value=1.0 - hp.beta2)
    scale = torch._foreach_sqrt(v)
    torch._foreach_div_(scale, math.sqrt(1.0 - hp.beta2 ** state["step"]))
    torch._foreach_add_(scale, hp.eps)
    torch._foreach_mul_(params, 1.0 - lr * hp.wd)
    torch._foreach_addcdiv_(params, m, scale, value=-lr / (1.0 - hp.beta1 ** state["step"]))
    torch._foreach_addcdiv_(params, slow, scale, value=-lr * alpha)
