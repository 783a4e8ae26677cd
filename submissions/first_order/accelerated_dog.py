"""Accelerated DoG: Nesterov's scheme with DoG's estimate of distance in place of a step size.

Kreisler, Ivgi, Hinder and Carmon, "Accelerated Parameter-Free Stochastic Optimization", arXiv
2404.00666: the one-gradient companion of U-DoG (A-DoG), as in the authors' class.

    G ← G + ‖a·g(x)‖²;  η = r/√G;  y = x − η·g;  w ← w − η·a·g;  ȳ ← ȳ + (a·r/Σ)(y − ȳ)
    r ← max(r, ‖w − p₀‖);  S ← S + r;  a = max(1, S/2r);  Σ ← Σ + a·r;  x = (1 − 1/a)y + w/a

Training uses x; evaluation uses ȳ. At first r = S = reps·(1 + ‖p₀‖), a = 1, Σ = r, G = eps.
State: p₀, w and ȳ, three words per parameter; r, S, Σ, G and a.
Departures from the paper: none.
"""

import torch

from harness import ops

ELEMENTWISE = True
SPACE = {"lr": 1.0, "reps": {"log": [1e-7, 1e-3]}, "eps": 1e-8}


def init(params, hp):
    reach = hp.reps * (1.0 + ops.global_norm(params))
    numbers = {"reach": reach, "total": reach, "weights": reach, "square": hp.eps, "a": 1.0}
    return {key: ops.copies(params) for key in ("start", "w", "average")} | numbers


def update(params, grads, state, hp, progress):
    a, reach = state["a"], state["reach"]
    state["square"] += (a * ops.global_norm(grads)) ** 2
    step = hp.lr * reach / state["square"] ** 0.5
    torch._foreach_add_(params, grads, alpha=-step)
    torch._foreach_add_(state["w"], grads, alpha=-step * a)
    torch._foreach_lerp_(state["average"], params, a * reach / state["weights"])
    way = ops.global_norm(torch._foreach_sub(state["w"], state["start"]))
    state["reach"] = reach = max(reach, way)
    state["total"] += reach
    state["a"] = a = max(1.0, 0.5 * state["total"] / reach)
    state["weights"] += a * reach
    torch._foreach_lerp_(params, state["w"], 1.0 / a)


def evaluate_view(params, state):
    return list(state["average"])
