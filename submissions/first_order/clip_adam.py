"""Clipped Adam with delay: clipped gradients over a second moment that lacks the present one.

Chezhegov et al., "Clipping Improves Adam-Norm and AdaGrad-Norm when the Noise Is Heavy-Tailed",
arXiv 2406.04443; order, start and clipping agree with the authors' class.

    ĝ = g·min(1, c/(‖g‖ + 1e-6)) for each tensor, or by the norm of all, or clip(g, −c, c)
    m ← β1·m + (1 − β1)ĝ;  v ← β2·v + (1 − β2)·η·(last ĝ)², v starts at v0
    p ← (p − lr·m/(√v + 1e-6))(1 − lr·wd).  Without delay: ĝ for the last ĝ, and v starts at 0

clip_adam_norm has one v, of ‖ĝ‖². There is no bias correction.
State: m, v and the last ĝ, three words per parameter (m alone with one v).
Departures from the paper: warm-up and decay of lr.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

SPACE = {
    "lr": {"log": [3e-4, 1e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "clip": {"log": [0.1, 10.0]},
    "by": {"choice": ["tensor", "element", "global"]},
    "delay": {"choice": [True, False]},
    "scalar": False,
    "eta": 1.0,
    "v0": 1e-5,
    "beta1": 0.9,
    "beta2": {"choice": [0.999, 0.99]},
    "warmup": 0.05,
}
VARIANTS = {"clip_adam_norm": {"scalar": True}}
TINY = 1e-6


def init(params, hp):
    first = hp.v0 if hp.delay else 0.0
    if hp.scalar:
        return {"m": ops.zeros(params), "v": first, "square": 0.0}
    v = [torch.full_like(p, first) for p in params]
    return {"m": ops.zeros(params), "v": v, "last": ops.zeros(params)}


def clipped(grads, by, limit):
    """Return the gradients, shortened to the limit."""
    if by == "element":
        return torch._foreach_clamp_max(torch._foreach_clamp_min(grads, -limit), limit)
    if by == "global":
        return torch._foreach_mul(grads, min(1.0, limit / (ops.global_norm(grads) + TINY)))
    norms = torch.stack(torch._foreach_norm(grads))
    factors = (limit / (norms + TINY)).clamp_(max=1.0)
    return torch._foreach_mul(grads, list(factors.unbind()))


def update(params, grads, state, hp, progress):
    lr, g = hp.lr * warmup_cosine(progress, hp.warmup), clipped(grads, hp.by, hp.clip)
    torch._foreach_lerp_(state["m"], g, 1.0 - hp.beta1)
    weight = (1.0 - hp.beta2) * hp.eta
    if hp.scalar:
        square = ops.global_norm(g) ** 2
        state["v"] = hp.beta2 * state["v"] + weight * (state["square"] if hp.delay else square)
        state["square"] = square
        torch._foreach_add_(params, state["m"], alpha=-lr / (state["v"] ** 0.5 + TINY))
    else:
        used = state["last"] if hp.delay else g
        torch._foreach_mul_(state["v"], hp.beta2)
        torch._foreach_addcmul_(state["v"], used, used, value=weight)
        torch._foreach_copy_(state["last"], g)
        scale = torch._foreach_sqrt(state["v"])
        torch._foreach_add_(scale, TINY)
        torch._foreach_addcdiv_(params, state["m"], scale, value=-lr)
    torch._foreach_mul_(params, 1.0 - lr * hp.wd)
