"""LANTON: Muon with a smaller step for a matrix whose gradients are noisier than the others'.

Hao et al., "Noise-Adaptive Layerwise Learning Rates: Accelerating Geometry-Aware Optimization for
Deep Neural Network Training", arXiv 2510.14009, option I for hidden matrices.

    m ← β1·m + (1 − β1)g;  O = NewtonSchulz₅(m);  H ← β2·H + (1 − β2)‖g − last g‖*², nuclear norm
    a = α/√(α² + H);  p ← p − lr·√(a/max a)·(√max(1, rows/columns)·O + wd·p), max over all matrices

The nuclear norm of D is ⟨D, NewtonSchulz₅(D)⟩, up to a fifth off. AdamW updates the rest.
State: m and the last gradient, two words per parameter; H, one number for each matrix.
Departures from the paper: the other norm groups (embeddings, vectors) are AdamW's. The text was not
at hand: the rule follows a summary; β1, β2 and α are free, and α counts in units of √(mean H).
"""

from collections import defaultdict

import torch

from harness import ops
from harness.schedules import warmup_cosine

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    "lr": {"log": [5e-3, 8e-2]},
    "wd": {"log": [1e-3, 1e-1]},
    "beta1": 0.95,
    "beta2": {"choice": [0.9, 0.99]},
    "alpha": {"log": [0.1, 10.0]},
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}


def init(params, hp):
    noise = [p.new_zeros(()) for p in params]
    return {"m": ops.zeros(params), "last": ops.zeros(params), "noise": noise, "step": 0}


def rates(noise, alpha):
    """Return √(a/max a) of each matrix from the noise H of all, a tensor."""
    h = torch.stack(noise)
    size = h.mean().clamp(min=1e-30)
    a = alpha / (alpha**2 + h / size).sqrt()
    return (a / a.max()).sqrt()


def update(params, grads, state, hp, progress):
    lr, shapes = hp.lr * warmup_cosine(progress, hp.warmup), defaultdict(list)
    torch._foreach_lerp_(state["m"], grads, 1.0 - hp.beta1)
    steps, changes = [grads[0]] * len(grads), torch._foreach_sub(grads, state["last"])
    for i, g in enumerate(grads):
        shapes[g.shape].append(i)
    for members in shapes.values():
        # One call orthogonalises the momenta and the changes.
        d = torch.stack([changes[i] for i in members])
        both = torch.cat([torch.stack([state["m"][i] for i in members]), d])
        o, polar = ops.newton_schulz(both).chunk(2)
        nuclear = (d * polar).sum(dim=(1, 2)).clamp_(min=0.0)
        for i, x, size in zip(members, o.unbind(), nuclear.unbind(), strict=True):
            steps[i] = x
            if state["step"]:
                state["noise"][i].lerp_(size.square(), 1.0 - hp.beta2)
    state["step"] += 1
    torch._foreach_copy_(state["last"], grads)
    for p, x, rate in zip(params, steps, rates(state["noise"], hp.alpha).tolist(), strict=True):
        stretch = max(1.0, p.shape[0] / max(1, p.shape[1])) ** 0.5
        ops.sgd_([p], [x], lr * rate * stretch, hp.wd / stretch)
