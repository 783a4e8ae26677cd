"""Finetune: SGD or Adam on the stream, with nothing against forgetting.

The null method of continual learning. SGD with momentum (Sutskever et al., ICML 2013) at a constant
rate, or Adam (Kingma and Ba, arXiv 1412.6980) where `adaptive`.

    m ← momentum·m + g;  p ← p − lr·m        adaptive: Adam with β = (momentum, 0.999), eps 1e-8

State: m, and v where adaptive, one word per parameter each; the step.
Departures from the paper: none.
"""

from harness import ops

ELEMENTWISE = True
TRACKS = ["continual"]
SPACE = {
    "lr": {"log": [1e-4, 0.3], "default": 0.01},
    "momentum": 0.9,
    "adaptive": {"choice": [False, True]},
}


def init(params, hp):
    moments = {"m": ops.zeros(params), "step": 0}
    return moments | {"v": ops.zeros(params)} if hp.adaptive else moments


def update(params, grads, state, hp, progress):
    state["step"] += 1
    if hp.adaptive:
        betas = (hp.momentum, 0.999)
        ops.adam_(params, grads, state["m"], state["v"], state["step"], hp.lr, betas, 1e-8)
    else:
        ops.sgd_(params, grads, hp.lr, 0.0, hp.momentum, state["m"])
