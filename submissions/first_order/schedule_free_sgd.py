"""Schedule-free SGD: averaging in place of a decaying learning rate, without second moments.

Defazio et al., "The Road Less Scheduled", arXiv 2405.15682, equations 3 to 5.

    y = (1 − β)z + β·x, where gradients are taken;  u = g + wd·y;  z ← z − lr·u
    x ← (1 − c)x + c·z,  c = lr_max²/Σ lr_max²

Training uses y; evaluation uses x = (y − (1 − β)z)/β.
State: z, one word per parameter; lr_max, the sum of weights, β.
Departures from the paper: the warm-up counts half steps, as all schedules of the harness do.
"""

import torch

from harness import ops
from harness.schedules import warmup_constant
from submissions.first_order import schedule_free_adamw

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [0.1, 10.0]},
    "wd": {"log": [1e-6, 1e-3]},
    "beta": {"choice": [0.9, 0.95, 0.98]},
    "warmup": 0.05,
}
evaluate_view = schedule_free_adamw.evaluate_view


def init(params, hp):
    return {"z": ops.copies(params), "lr_max": 0.0, "weights": 0.0, "beta1": hp.beta}


def update(params, grads, state, hp, progress):
    lr = hp.lr * warmup_constant(progress, hp.warmup)
    state["lr_max"] = max(state["lr_max"], lr)
    state["weights"] += state["lr_max"] ** 2
    c = state["lr_max"] ** 2 / state["weights"]
    u = torch._foreach_add(grads, params, alpha=hp.wd)
    torch._foreach_lerp_(params, state["z"], c)
    torch._foreach_add_(params, u, alpha=lr * (hp.beta * (1.0 - c) - 1.0))
    torch._foreach_sub_(state["z"], u, alpha=lr)
