"""OPT-AMSGrad: AMSGrad that takes an extra half step along a guess of the next gradient.

Wang, Li, Karimi and Li, "An Optimistic Acceleration of AMSGrad for Nonconvex Optimization", arXiv
1903.01435. γ is the guess of this step's gradient, γ' that of the next; p is where gradients are
taken, w the point that it leans out from.

    m' = β1·m + (1 − β1)g;  v ← β2·v + (1 − β2)(g − γ)²;  s ← max(s, v);  w ← w − lr·m'/√s
    p = w − lr·h/√s,  h = β1·m + (1 − β1)γ';  m ← m'.  No bias correction, v starts at eps

γ' is the last gradient ("last"), or extrapolated from the last r + 1 gradients x₀ ... xᵣ
("extrapolate"): Σ cᵢxᵢ, i < r, c ∝ (UᵀU + λI)⁻¹1, Σc = 1, U = [x₁ − x₀, ...], arXiv 1606.04133.
State: m, v, s, w and the last gradients, four words per parameter and one for each gradient.
Departures from the paper: decoupled decay. Its text was not at hand: the rule follows a summary,
λ is relative to the mean diagonal of UᵀU and free, eps is free; r = 5 as in the authors' code.
"""

from itertools import pairwise

import torch

from harness import ops
from harness.schedules import warmup_cosine

SPACE = {
    "lr": {"log": [5e-4, 1e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "guess": {"choice": ["last", "extrapolate"]},
    "r": 5,
    "lam": {"log": [1e-3, 1.0]},
    "beta1": 0.9,
    "beta2": {"choice": [0.99, 0.999]},
    "eps": 1e-8,
    "warmup": 0.05,
}


def init(params, hp):
    count = hp.r + 1 if hp.guess == "extrapolate" else 1
    state = {key: ops.zeros(params) for key in ("m", "v", "peak", "guess")}
    torch._foreach_add_(state["v"], hp.eps)
    torch._foreach_add_(state["peak"], hp.eps)
    seen = {f"seen{i}": ops.zeros(params) for i in range(count if count > 1 else 0)}
    return state | seen | {"base": ops.copies(params), "step": 0}


def extrapolated(seen, lam):
    """Return the combination of the older gradients; `seen` is a list of lists, oldest first."""
    ways = [torch._foreach_sub(b, a) for a, b in pairwise(seen)]
    flat = torch.stack([torch.cat([w.flatten() for w in way]) for way in ways]).double()
    gram = flat @ flat.mT
    size = gram.diagonal().mean()
    ridge = lam * size * torch.eye(len(ways), dtype=gram.dtype, device=gram.device)
    ones = torch.ones(len(ways), dtype=gram.dtype, device=gram.device)
    if not size > 0:
        return ops.copies(seen[-1])
    weights = torch.linalg.solve(gram + ridge, ones)
    weights = (weights / weights.sum()).tolist()
    result = torch._foreach_mul(seen[0], weights[0])
    for weight, gradient in zip(weights[1:], seen[1:-1], strict=True):
        torch._foreach_add_(result, gradient, alpha=weight)
    return result


def guessed(grads, state, hp):
    """Return the guess of the next gradient; keep what later guesses need."""
    if hp.guess == "last":
        return grads
    count = hp.r + 1
    torch._foreach_copy_(state[f"seen{(state['step'] - 1) % count}"], grads)
    if state["step"] < count:
        return grads
    return extrapolated([state[f"seen{(state['step'] + i) % count}"] for i in range(count)], hp.lam)


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, m, v = hp.lr * warmup_cosine(progress, hp.warmup), state["m"], state["v"]
    wrong = torch._foreach_sub(grads, state["guess"])
    torch._foreach_mul_(v, hp.beta2)
    torch._foreach_addcmul_(v, wrong, wrong, value=1.0 - hp.beta2)
    torch._foreach_maximum_(state["peak"], v)
    torch._foreach_copy_(state["guess"], guessed(grads, state, hp))
    lean = torch._foreach_lerp(m, state["guess"], 1.0 - hp.beta1)
    torch._foreach_lerp_(m, grads, 1.0 - hp.beta1)
    scale = torch._foreach_sqrt(state["peak"])
    torch._foreach_mul_(state["base"], 1.0 - lr * hp.wd)
    torch._foreach_addcdiv_(state["base"], m, scale, value=-lr)
    torch._foreach_copy_(params, torch._foreach_addcdiv(state["base"], lean, scale, value=-lr))
