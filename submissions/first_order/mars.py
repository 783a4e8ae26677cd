"""MARS: AdamW on gradients with a share of their last change added, as variance reduction does.

Yuan et al., "MARS: Unleashing the Power of Variance Reduction for Training Large Models", arXiv
2411.10438, Algorithm 2 (MARS-AdamW).

    c = g + γ·β1/(1 − β1)·(g − last g);  c ← c/‖c‖ where ‖c‖ > 1, for each tensor
    AdamW with c for tensors of two dimensions and more; others: AdamW with g and their own betas

State: m, v and the last gradient, three words per parameter; the step.
Departures from the paper: the approximate form, which takes the last gradient where mars_exact
takes the gradient at the last p. The last gradient is 0 at first, as in the authors' code. Vectors
share lr and decay with matrices; there the authors set them apart.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

SPACE = {
    # The authors take ten times AdamW's for the small GPT-2: 6e-3 against 6e-4.
    "lr": {"log": [2e-3, 4e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "gamma": {"log": [1e-2, 0.1], "default": 0.025},
    "beta1": 0.95,
    "beta2": {"choice": [0.99, 0.999]},
    "vector_beta1": 0.9,
    "vector_beta2": 0.95,
    "eps": 1e-8,
    "warmup": 0.05,
}


def init(params, hp):
    return {key: ops.zeros(params) for key in ("m", "v", "last")} | {"step": 0}


def corrected(grads, last, weight):
    """Return g + weight·(g − last) of each tensor, shortened to norm 1 where it is longer."""
    c = torch._foreach_sub(grads, last)
    torch._foreach_mul_(c, weight)
    torch._foreach_add_(c, grads)
    norms = torch.stack(torch._foreach_norm(c)).clamp_(min=1.0)
    torch._foreach_div_(c, list(norms.unbind()))
    return c


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, m, v = hp.lr * warmup_cosine(progress, hp.warmup), state["m"], state["v"]
    for matrices in (True, False):
        members = [i for i, p in enumerate(params) if (p.ndim > 1) == matrices]
        if not members:
            continue
        p, g, mean, square = ([each[i] for i in members] for each in (params, grads, m, v))
        betas = (hp.beta1, hp.beta2) if matrices else (hp.vector_beta1, hp.vector_beta2)
        if matrices:
            last = [state["last"][i] for i in members]
            g = corrected(g, last, hp.gamma * hp.beta1 / (1.0 - hp.beta1))
        ops.adam_(p, g, mean, square, state["step"], lr, betas, hp.eps, hp.wd)
    torch._foreach_copy_(state["last"], grads)
