"""KT betting: SGD without a learning rate, which bets the same share of its winnings on each step.

Orabona and Pal, "Coin Betting and Parameter-Free Online Learning", arXiv 1602.04128, Algorithm 1
(Krichevsky-Trofimov). c is minus the gradient, divided by the largest norm so far.

    W ← W + ⟨c, p − p₀⟩, at first eps;  s ← s + c;  p = p₀ + s/(t + 1)·W

A coordinate-wise form keeps W for each element, and each has its own largest gradient.
State: p₀ and s, two words per parameter, and W (coordinate-wise W and the largest, four words).
Departures from the paper: it assumes gradients of norm 1 at most; the division by the largest so
far takes its place, and W stays at least at eps/10. lr is 1, times no schedule.
"""

import torch

from harness import ops

ELEMENTWISE = True
SPACE = {
    "lr": 1.0,
    "eps": {"log": [1e-4, 1.0]},
    "coordinates": {"choice": [False, True]},
}
FLOOR = 0.1


def init(params, hp):
    state = {"start": ops.copies(params), "s": ops.zeros(params), "step": 0}
    if not hp.coordinates:
        return state | {"wealth": hp.eps, "largest": 0.0}
    wealth = [torch.full_like(p, hp.eps) for p in params]
    return state | {"wealth": wealth, "largest": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    way = torch._foreach_sub(params, state["start"])
    if hp.coordinates:
        torch._foreach_maximum_(state["largest"], torch._foreach_abs(grads))
        c = torch._foreach_div(grads, torch._foreach_clamp_min(state["largest"], 1e-30))
        torch._foreach_neg_(c)
        torch._foreach_addcmul_(state["wealth"], c, way)
        torch._foreach_clamp_min_(state["wealth"], FLOOR * hp.eps)
    else:
        state["largest"] = max(state["largest"], ops.global_norm(grads))
        c = torch._foreach_mul(grads, -1.0 / max(state["largest"], 1e-30))
        won = sum(float((a * b).sum()) for a, b in zip(c, way, strict=True))
        state["wealth"] = max(state["wealth"] + won, FLOOR * hp.eps)
    torch._foreach_add_(state["s"], c)
    bet = torch._foreach_mul(state["s"], hp.lr / (state["step"] + 1))
    torch._foreach_mul_(bet, state["wealth"])
    torch._foreach_copy_(params, torch._foreach_add(state["start"], bet))
