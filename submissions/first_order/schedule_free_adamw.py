"""Schedule-free AdamW: averaging in place of a decaying learning rate.

Defazio et al., "The Road Less Scheduled", arXiv 2405.15682, Algorithm 1.

    y = (1 − β1)z + β1·x, where gradients are taken;  v ← β2·v + (1 − β2)g²
    u = g/(√(v/(1 − β2ᵗ)) + eps) + wd·y;  z ← z − lr·u;  x ← (1 − c)x + c·z,  c = lr_max²/Σ lr_max²

Training uses y; evaluation uses x = (y − (1 − β1)z)/β1.
State: z and v, two words per parameter; the step, lr_max, the sum of weights, β1.
Departures from the paper: the warm-up counts half steps, as all schedules of the harness do.
"""

import torch

from harness import ops
from harness.schedules import warmup_constant

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [2e-3, 4e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "beta1": {"choice": [0.9, 0.95, 0.98]},
    "beta2": {"choice": [0.99, 0.999]},
    "eps": 1e-8,
    "warmup": 0.05,
}


def init(params, hp):
    return {
        "z": ops.copies(params),
        "v": ops.zeros(params),
        "step": 0,
        "lr_max": 0.0,
        "weights": 0.0,
        "beta1": hp.beta1,
    }


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr = hp.lr * warmup_constant(progress, hp.warmup)
    state["lr_max"] = max(state["lr_max"], lr)
    state["weights"] += state["lr_max"] ** 2
    c = state["lr_max"] ** 2 / state["weights"]
    # Adam with β1 = 0 and lr = −1, applied to zeros, gives the normalised gradient.
    us, scratch, betas = ops.zeros(params), ops.zeros(params), (0.0, hp.beta2)
    ops.adam_(us, grads, scratch, state["v"], state["step"], -1.0, betas, hp.eps)
    for y, z, u in zip(params, state["z"], us, strict=True):
        u.add_(y, alpha=hp.wd)
        y.lerp_(z, c).add_(u, alpha=lr * (hp.beta1 * (1.0 - c) - 1.0))
        z.sub_(u, alpha=lr)


def evaluate_view(params, state):
    return [torch.lerp(z, y, 1.0 / state["beta1"]) for y, z in zip(params, state["z"], strict=True)]
