"""Linear decay: AdamW with a warm-up and a linear fall to zero.

Defazio et al., "Optimal Linear Decay Learning Rate Schedules and Further Refinements", arXiv
2310.07831: the schedule that theory recommends, better than the cosine in most comparisons there.

    η(t) = lr·(1 − t/T) after the warm-up;  the rest is AdamW

State: AdamW's m and v, two words per parameter; the step.
Departures from the paper: none.
"""

from harness import ops
from harness.schedules import warmup_linear
from submissions.first_order import adamw

ELEMENTWISE = True
SPACE = adamw.SPACE
init = adamw.init


def update(params, grads, state, hp, progress):
    state["step"] += 1
    m, v, step = state["m"], state["v"], state["step"]
    lr, betas = hp.lr * warmup_linear(progress, hp.warmup), (hp.beta1, hp.beta2)
    ops.adam_(params, grads, m, v, step, lr, betas, hp.eps, hp.wd)
