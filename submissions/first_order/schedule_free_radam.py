"""Schedule-free RAdam: averaging in place of a schedule, and RAdam's rectifier in place of warm-up.

Defazio et al., "The Road Less Scheduled", arXiv 2405.15682; the RAdam form is the authors' code.

    schedule_free_adamw with lr·r in place of lr, r the rectifier of arXiv 1908.03265 for ρ > 4;
    while ρ ≤ 4 nothing moves, but v does

Training uses y; evaluation uses x = (y − (1 − β1)z)/β1.
State: z and v, two words per parameter; the step, lr_max, the sum of weights, β1.
Departures from the paper: none; `silent_sgd_phase` of the authors' code is on.
"""

import torch

from submissions.first_order import radam, schedule_free_adamw

ELEMENTWISE = True
SPACE = {**schedule_free_adamw.SPACE, "warmup": 0.0}
SKIPS = {"missing": "nothing moves in its first four steps, where ρ is at most 4"}
init = schedule_free_adamw.init
evaluate_view = schedule_free_adamw.evaluate_view


def update(params, grads, state, hp, progress):
    rho, largest = radam.length(hp.beta2, state["step"] + 1)
    if rho <= 4.0:
        state["step"] += 1
        torch._foreach_mul_(state["v"], hp.beta2)
        torch._foreach_addcmul_(state["v"], grads, grads, value=1.0 - hp.beta2)
        return
    scaled = type(hp)(**vars(hp) | {"lr": hp.lr * radam.rectifier(rho, largest)})
    schedule_free_adamw.update(params, grads, state, scaled, progress)
