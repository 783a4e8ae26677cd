"""SGD-SaI: SGD with momentum and a step size for each tensor, fixed by its first gradient.

Xu et al., "No More Adam: Learning Rate Scaling at Initialization is All You Need", arXiv
2412.11768.

    at the first step, for each tensor, s = ‖g‖/(std(g) + eps), 0 where g has one element;  m = g
    later m ← μ·m + (1 − μ)g;  p ← p(1 − lr·wd) − lr·s·m

State: m, one word per parameter; s, one number per tensor; the step.
Departures from the paper: none. A tensor without a gradient at the first step keeps s = 0.
"""

from harness import ops
from harness.schedules import warmup_cosine

SPACE = {
    "lr": {"log": [1e-3, 1e-1]},
    "wd": {"log": [1e-2, 1.0]},
    "momentum": 0.9,
    "eps": 1e-8,
    "warmup": 0.05,
}


def init(params, hp):
    return {"m": ops.zeros(params), "s": [p.new_zeros(()) for p in params], "step": 0}


def update(params, grads, state, hp, progress):
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    for p, g, m, s in zip(params, grads, state["m"], state["s"], strict=True):
        if state["step"] == 0:
            m.copy_(g)
            if g.numel() > 1:
                s.copy_(g.norm() / (g.std() + hp.eps))
        else:
            m.lerp_(g, 1.0 - hp.momentum)
        p.mul_(1.0 - lr * hp.wd).addcmul_(m, s, value=-lr)
    state["step"] += 1
