"""EFCP: M-FAC or GGT on a window of sparse gradients, with error feedback for what is left out.

Modoranu, Kalinov, Kurtic, Frantar and Alistarh, "Error Feedback Can Accurately Compress
Preconditioners", arXiv 2306.06098.

    e ← e + g + wd·p;  T = the largest elements of e in magnitude, by share `density` of each tensor
    e ← e − T;  the last k sparse T are kept as values and indices
    mfac    p ← p − lr·λ·(ΣTTᵀ/k + λI)⁻¹T
    ggt     p ← p − lr·√λ·((ΣTTᵀ/k)^(1/2) + √λ·I)⁻¹T

State: e, one word per parameter; 3·k·density words more, as an index takes two; the Gram matrix.
Departures from the paper: k is 32 by default, not 1,024; the largest elements are found in whole
tensors, not in blocks; the factors λ and √λ belong to the learning rate in the paper. So its lr
1e-3 with λ 1e-6 is lr 1,000 here, and outside the window lr is that of SGD.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.second_order.ggt import weights

SPACE = {
    "lr": {"log": [0.5, 100.0]},
    "wd": {"log": [1e-6, 1e-3]},
    "curvature": {"choice": ["mfac", "ggt"]},
    "damping": {"log": [1e-4, 1e-1]},
    "density": {"choice": [0.01, 0.1, 1.0]},
    "history": {"choice": [32, 16, 64]},
    "warmup": 0.05,
}


def init(params, hp):
    counts = [max(1, round(hp.density * p.numel())) if p.numel() else 0 for p in params]
    values = [p.new_zeros(hp.history, n) for p, n in zip(params, counts, strict=True)]
    gram = torch.zeros(hp.history, hp.history, dtype=torch.float64)
    index = [torch.zeros_like(v, dtype=torch.int64) for v in values]
    return {"e": ops.zeros(params), "values": values, "index": index, "gram": gram, "step": 0}


def update(params, grads, state, hp, progress):
    slot, gram = state["step"] % hp.history, state["gram"]
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    state["step"] += 1
    torch._foreach_add_(state["e"], grads)
    torch._foreach_add_(state["e"], params, alpha=hp.wd)
    kept, products = [], torch.zeros_like(gram[0])
    for e, values, index in zip(state["e"], state["values"], state["index"], strict=True):
        flat = e.view(-1)
        index[slot] = flat.abs().topk(values.shape[1]).indices
        values[slot] = flat[index[slot]]
        kept.append(torch.zeros_like(flat).index_copy_(0, index[slot], values[slot]))
        flat[index[slot]] = 0.0
        products += (kept[-1][index] * values).sum(1).double().cpu()
    gram[slot], gram[:, slot] = products, products
    if hp.curvature == "ggt":
        k, root = hp.history, hp.damping**0.5
        w = weights(gram / k, products / k**0.5, root) * root / k**0.5
    else:
        ridge = hp.history * hp.damping * torch.eye(hp.history, dtype=torch.float64)
        w = -torch.linalg.solve(gram + ridge, products)
    for p, t, values, index in zip(params, kept, state["values"], state["index"], strict=True):
        t.index_add_(0, index.flatten(), (w.to(values)[:, None] * values).flatten())
        p.sub_(t.view_as(p), alpha=lr)
