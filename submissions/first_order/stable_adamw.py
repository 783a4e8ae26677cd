"""StableAdamW: AdamW with a smaller rate for a tensor whose gradient outgrew its second moment.

Wortsman et al., "Stable and Low-Precision Training for Large-Scale Vision-Language Models", arXiv
2304.13013, Algorithm 2.

    β1' = β1(1 − β1^(t−1))/(1 − β1ᵗ), β2' likewise
    m ← β1'·m + (1 − β1')g;  v ← β2'·v + (1 − β2')g²
    η = lr/max(1, RMS(g/√max(v, eps²))), for each tensor;  p ← p(1 − η·wd) − η·m/(√v + eps)

State: m and v, two words per parameter; the step.
Departures from the paper: none.
"""

import torch

from harness.schedules import warmup_cosine
from submissions.first_order import adamw

SPACE = {**adamw.SPACE, "eps": 1e-6}
init = adamw.init


def debiased(beta, t):
    """Return the decay at step t with which an average from zero is unbiased."""
    return beta * (1.0 - beta ** (t - 1)) / (1.0 - beta**t)


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, m, v = hp.lr * warmup_cosine(progress, hp.warmup), state["m"], state["v"]
    beta1, beta2 = debiased(hp.beta1, state["step"]), debiased(hp.beta2, state["step"])
    torch._foreach_lerp_(m, grads, 1.0 - beta1)
    torch._foreach_mul_(v, beta2)
    torch._foreach_addcmul_(v, grads, grads, value=1.0 - beta2)
    scale = torch._foreach_sqrt(v)
    ratios = torch._foreach_div(grads, torch._foreach_clamp_min(scale, hp.eps))
    norms = torch.stack(torch._foreach_norm(ratios)).tolist()
    sizes = [max(1, p.numel()) ** 0.5 for p in params]
    rates = [lr / max(1.0, norm / size) for norm, size in zip(norms, sizes, strict=True)]
    torch._foreach_add_(scale, hp.eps)
    torch._foreach_mul_(params, [1.0 - rate * hp.wd for rate in rates])
    torch._foreach_addcdiv_(params, m, scale, [-rate for rate in rates])
