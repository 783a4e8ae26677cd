"""Accelerated SGD under interpolation: Nesterov's sequence of momenta with stochastic gradients.

Vaswani, Bach and Schmidt, "Fast and Faster Convergence of SGD for Over-Parameterized Models",
arXiv 1810.07288; Mishkin, Pilanci and Schmidt, arXiv 2404.02378, whose second version withdraws
the improved rate for this form.

    w' = y − lr·g(y);  a'² = (1 − a')·a² + a'·q;  y ← w' + a(1 − a)/(a² + a')·(w' − w);  w ← w'

It is linear where the noise vanishes at the optimum. lr is 1/(ρL), ρ the growth constant of the
noise, and q is lr·μ. At first a = 1. With q = 0 the momenta are those of FISTA; with q > 0 they
tend to (1 − √q)/(1 + √q). Training uses y and evaluation w.

State: w, one word per parameter; a.
Departures from the paper: none known in the update, which was written from a summary and not
compared with the text; ρ, L and μ are not estimated, but lr and q tuned.
"""

import torch

from harness import ops

ELEMENTWISE = True
SPACE = {"lr": {"log": [1e-3, 1.0]}, "q": {"choice": [1e-3, 0.0, 1e-2, 1e-4]}}


def init(params, hp):
    return {"w": ops.copies(params), "a": 1.0}


def update(params, grads, state, hp, progress):
    a = state["a"]
    gap = a * a - hp.q
    new = ((gap * gap + 4.0 * a * a) ** 0.5 - gap) / 2.0
    torch._foreach_add_(params, grads, alpha=-hp.lr)
    way = torch._foreach_sub(params, state["w"])
    torch._foreach_copy_(state["w"], params)
    torch._foreach_add_(params, way, alpha=a * (1.0 - a) / (a * a + new))
    state["a"] = new


def evaluate_view(params, state):
    return list(state["w"])
