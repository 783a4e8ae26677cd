"""Adam-mini: AdamW with one second moment for each row of a matrix and for each vector.

Zhang et al., "Adam-mini: Use Fewer Learning Rates To Gain More", arXiv 2406.16793, Algorithm 1.

    m ← β1·m + (1 − β1)g;  v ← β2·v + (1 − β2)·mean of g² over the block
    p ← p(1 − lr·wd) − lr·m̂/(√v̂ + eps)

Blocks are rows: an output neuron, a token of the embedding or of the readout.
State: m, one word per parameter; v, one number for each row or vector; the step.
Departures from the paper: queries and keys have a block for each row, where the paper has one for
each head, since heads are no property of a tensor.
"""

import math

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.first_order import adamw

SPACE = adamw.SPACE


def init(params, hp):
    return {"m": ops.zeros(params), "v": [rows(p) for p in params], "step": 0}


def rows(p):
    """Return zeros, one for each row of a matrix and one for any other tensor."""
    return p.new_zeros([n if p.ndim > 1 and i == 0 else 1 for i, n in enumerate(p.shape)])


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, t, v = hp.lr * warmup_cosine(progress, hp.warmup), state["step"], state["v"]
    torch._foreach_lerp_(state["m"], grads, 1.0 - hp.beta1)
    means = []
    for g in grads:
        norms = torch.linalg.vector_norm(
            g, dim=tuple(range(min(1, g.ndim - 1), g.ndim)), keepdim=True
        )
        means.append(norms.square_().mul_(norms.numel() / max(1, g.numel())))
    torch._foreach_lerp_(v, means, 1.0 - hp.beta2)
    scale = torch._foreach_sqrt(v)
    torch._foreach_div_(scale, math.sqrt(1.0 - hp.beta2**t))
    torch._foreach_add_(scale, hp.eps)
    torch._foreach_mul_(params, 1.0 - lr * hp.wd)
    for p, m, s in zip(params, state["m"], scale, strict=True):
        p.addcdiv_(m, s, value=-lr / (1.0 - hp.beta1**t))
