"""Polar Express: Muon whose five steps to the orthogonal factor each have the best polynomial.

Amsel et al., "The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon
Algorithm", arXiv 2505.16932, Algorithm 1.

    X = u/(1.01·‖u‖);  X ← a·X + (b·A + c·A²)X, A = XXᵀ, with another (a, b, c) at each step
    p ← p − lr·(√max(1, rows/columns)·X + wd·p)

All but the last polynomial are evaluated at x/1.01, the paper's safety factor. Momentum, roles and
scale are Muon's. It updates the hidden matrices; AdamW the rest.
State: m, one word per parameter.
Departures from the paper: on a CPU this is done in float32, not bfloat16.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.first_order import moonlight, muon

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {**muon.SPACE, "steps": 5}
init = muon.init
# Algorithm 1 of the paper; later steps take the last line.
COEFFICIENTS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
SAFETY = 1.01


def polar(u, steps):
    """Return nearly orthogonal factors of the stack u [matrices, rows, columns]."""
    tall = u.size(-2) > u.size(-1)
    x = u.mT if tall else u
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) * SAFETY + 1e-7)
    x = x.bfloat16() if x.is_cuda else x
    for step in range(steps):
        a, b, c = COEFFICIENTS[min(step, len(COEFFICIENTS) - 1)]
        if step < len(COEFFICIENTS) - 1:
            a, b, c = a / SAFETY, b / SAFETY**3, c / SAFETY**5
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(u.dtype)


def update(params, grads, state, hp, progress):
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    xs = moonlight.directions(grads, state["m"], hp.momentum, lambda u: polar(u, hp.steps))
    torch._foreach_mul_(xs, [max(1.0, p.shape[0] / p.shape[1]) ** 0.5 for p in params])
    ops.sgd_(params, xs, lr, hp.wd)
