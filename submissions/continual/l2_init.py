"""L2-Init: a pull of every weight to where it began, so that the network can always learn.

Kumar, Marklund, Van Roy, "Maintaining Plasticity in Continual Learning via Regenerative
Regularization", arXiv 2308.11958.

    g ← ∇L + lam·(θ − θ₀);  finetune's step on g

The pull is part of the gradient, as the authors have it: Adam scales it like the rest.

State: finetune's; θ₀, one word per parameter.
Departures from the paper: the penalty is lam/2·‖θ − θ₀‖², half of theirs.
"""

import torch

from harness import ops
from submissions.continual import finetune

ELEMENTWISE = True
TRACKS = ["continual"]
SPACE = {
    **finetune.SPACE,
    "lr": {"log": [1e-4, 0.3], "default": 1e-3},
    "adaptive": {"choice": [True, False]},
    "lam": {"log": [1e-5, 0.1], "default": 2e-3},
}


def init(params, hp):
    return finetune.init(params, hp) | {"start": ops.copies(params)}


def update(params, grads, state, hp, progress):
    apart = torch._foreach_sub(params, state["start"])
    finetune.update(params, torch._foreach_add(grads, apart, alpha=hp.lam), state, hp, progress)
