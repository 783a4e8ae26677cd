"""Natural GaLore: GaLore whose small gradients are multiplied by an inverse empirical Fisher.

Das, "Natural GaLore: Accelerating GaLore for Memory-Efficient LLM Training and Fine-tuning",
arXiv 2410.16029.

    S = the last s projected gradients, the present one among them, as columns;  F = λI + SSᵀ
    R̃ = F⁻¹R = (R − S(λI + SᵀS)⁻¹SᵀR)/λ, then GaLore's Adam on R̃

It updates the hidden matrices. AdamW updates the rest.
State: GaLore's; s small gradients for each matrix.
Departures from the paper: columns are divided by √s, so that λ compares with a mean; λ is relative
to the mean of the diagonal of SᵀS, so that it has no unit.
"""

import torch

from submissions.low_rank import galore

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {**galore.SPACE, "history": {"choice": [10, 5, 20]}, "damping": {"log": [1e-2, 10.0]}}


def init(params, hp):
    state = galore.init(params, hp)
    return state | {"past": [m.new_zeros(hp.history, m.numel()) for m in state["m"]]}


def precondition(r, past, damping):
    """Return (λI + SSᵀ)⁻¹ r by an s x s system; λ = damping·mean diagonal of SᵀS; past = Sᵀ·√s."""
    gram = past @ past.mT / len(past)
    ridge = damping * gram.diagonal().mean() + 1e-30
    inner = gram + ridge * torch.eye(len(past), dtype=r.dtype, device=r.device)
    weights = torch.linalg.solve(inner, past @ r.flatten())
    return ((r.flatten() - past.mT @ weights / len(past)) / ridge).view_as(r)


def update(params, grads, state, hp, progress):
    slot = state["step"] % hp.history
    lr, correction, small = galore.begin(grads, state, hp, progress)
    for past, r in zip(state["past"], small):
        past[slot] = r.flatten()
    small = [precondition(r, past, hp.damping) for r, past in zip(small, state["past"])]
    for p, u, basis in zip(params, galore.adam(small, state, hp), state["basis"]):
        step = galore.expand(u, basis, p)
        p.add_(step, alpha=-lr * correction * hp.scale).mul_(1.0 - lr * hp.wd)
