"""NAdamW: AdamW with Nesterov's look-ahead in the first moment, in AlgoPerf's form.

Dozat, "Incorporating Nesterov Momentum into Adam", 2016; form and tuned constants: MLCommons
AlgoPerf, arXiv 2306.07179.

    p ← p(1 − lr·wd);  m ← β1·m + (1 − β1)g;  v ← β2·v + (1 − β2)g²
    n = β1·m + (1 − β1)g;  p ← p − lr·(n/(1 − β1ᵗ))/(√(v/(1 − β2ᵗ)) + eps)

State: m and v, two words per parameter; the step.
Departures from the paper: constant β1 in place of Dozat's momentum schedule, and one bias
correction, as in AlgoPerf; torch.optim.NAdam is another method.
"""

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [1e-3, 2e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "beta1": {"choice": [0.9, 0.95]},
    "beta2": {"choice": [0.95, 0.99, 0.999]},
    "eps": 1e-8,
    "warmup": 0.05,
}


def init(params, hp):
    return {"m": ops.zeros(params), "v": ops.zeros(params), "step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    lr, betas = hp.lr * warmup_cosine(progress, hp.warmup), (hp.beta1, hp.beta2)
    for m, g in zip(state["m"], grads, strict=True):
        m.lerp_(g, 1.0 - hp.beta1)
    # Adam's update of the first moment, applied to a copy of the new m, gives the look-ahead n.
    n, v, step = ops.copies(state["m"]), state["v"], state["step"]
    ops.adam_(params, grads, n, v, step, lr, betas, hp.eps, hp.wd)
