"""SST: all singular values train all the time, singular vectors a few at a time.

Zhao et al., "Sparse Spectral Training and Inference on Euclidean and Hyperbolic Neural Networks",
arXiv 2405.15481.

    W = U·diag(Σ)·Vᵀ.  Each step:  Σ ← max(Σ − AdamW's step on diag(UᵀGV), 0)
    of r vectors i, drawn by ½(1/k + Σ_i/ΣΣ) every `every` steps, k = the shorter side:
    U_i ← unit(U_i − Adam's step on G·V_i);  V_i ← unit(V_i − Adam's step on Gᵀ·U_i)
    after k/r draws:  U, Σ, V from the singular value decomposition of W

The gradients of vectors leave out the factor Σ_i. Moments of drawn vectors begin at 0 with each
draw, and their rate rises for a fifth of it. Others are as AdamW's. It updates the hidden matrices.
AdamW updates the rest.

State: U, Σ and V; moments of Σ and of r vectors of each side; for n x n matrices 2 + 4r/n words.
Departures from the paper: W itself is kept beside its factors, because the workload's model has it;
draws are without replacement; the length of a draw and of its warm-up are ours.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    "lr": {"log": [1e-3, 2e-2]},
    "share": {"choice": [0.25, 0.1, 0.5]},
    "every": {"choice": [20, 50, 10]},
    "beta1": 0.9,
    "beta2": 0.999,
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}


def init(params, hp):
    factors = [torch.linalg.svd(p.detach(), full_matrices=False) for p in params]
    state = {"U": [u for u, _, _ in factors], "S": [s for _, s, _ in factors]}
    state["V"] = [v.mT.contiguous() for _, _, v in factors]
    counts = [max(1, round(hp.share * len(s))) for s in state["S"]]
    pairs = list(zip(params, counts, strict=True))
    for name in ("m", "v"):
        state[f"{name}_S"] = ops.zeros(state["S"])
        state[f"{name}_U"] = [p.new_zeros(p.shape[0], n) for p, n in pairs]
        state[f"{name}_V"] = [p.new_zeros(p.shape[1], n) for p, n in pairs]
    state["drawn"] = [torch.arange(n, device=p.device) for p, n in pairs]
    return state | {"step": 0}


def unit(x):
    """Return the columns at length 1."""
    return x / x.norm(dim=0).clamp(min=torch.finfo(x.dtype).tiny)


def draw(state, i):
    """Draw other vectors of matrix i, and forget their moments."""
    s, drawn = state["S"][i], state["drawn"][i]
    chance = 0.5 / len(s) + 0.5 * s / s.sum().clamp(min=torch.finfo(s.dtype).tiny)
    drawn.copy_(torch.multinomial(chance, len(drawn)))
    for name in ("m_U", "v_U", "m_V", "v_V"):
        state[name][i].zero_()


def update(params, grads, state, hp, progress):
    step = state["step"]
    state["step"] = step + 1
    lr, betas = hp.lr * warmup_cosine(progress, hp.warmup), (hp.beta1, hp.beta2)
    since, draws = step % hp.every, step // hp.every
    slow = min(1.0, (since + 1) / max(1, hp.every // 5))
    for i, (p, g) in enumerate(zip(params, grads, strict=True)):
        u, s, v, drawn = (state[name][i] for name in ("U", "S", "V", "drawn"))
        if since == 0:
            draw(state, i)
        images = g @ v, g.mT @ u
        slopes = (u * images[0]).sum(0)
        moments = [state["m_S"][i]], [state["v_S"][i]]
        ops.adam_([s], [slopes], *moments, step + 1, lr, betas, 1e-8)
        s.clamp_(min=0.0)
        for side, factor, image in (("U", u, images[0]), ("V", v, images[1])):
            part = factor[:, drawn]
            moments = [state[f"m_{side}"][i]], [state[f"v_{side}"][i]]
            slope = image[:, drawn].contiguous()
            ops.adam_([part], [slope], *moments, since + 1, slow * lr, betas, 1e-8)
            factor[:, drawn] = unit(part)
        p.copy_((u * s) @ v.mT)
        if since == hp.every - 1 and (draws + 1) % -(-len(s) // len(drawn)) == 0:
            left, values, right = torch.linalg.svd(p, full_matrices=False)
            u.copy_(left), s.copy_(values), v.copy_(right.mT)
