"""LAWA: AdamW evaluated at the mean of its latest checkpoints.

Kaddour, "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest Weight
Averaging", arXiv 2209.14981.

    after each share `every` of the horizon, keep a copy of p
    evaluation uses the mean of the latest `copies`

State: AdamW's m and v, and `copies` more words per parameter; the step.
Departures from the paper: the spacing is a share of the horizon, not an epoch; the base method is
AdamW with a cosine schedule.
"""

import torch

from harness import ops
from submissions.first_order import adamw

ELEMENTWISE = True
SPACE = {**adamw.SPACE, "copies": {"int": [2, 10], "default": 6}, "every": {"log": [2e-3, 5e-2]}}


def init(params, hp):
    copies = {f"copy{i}": ops.copies(params) for i in range(hp.copies)}
    return adamw.init(params, hp) | copies | {"copies": hp.copies, "taken": 0, "intervals": 0}


def update(params, grads, state, hp, progress):
    adamw.update(params, grads, state, hp, progress)
    if int(progress / hp.every) > state["intervals"]:
        state["intervals"] = int(progress / hp.every)
        torch._foreach_copy_(state[f"copy{state['taken'] % hp.copies}"], params)
        state["taken"] += 1


def evaluate_view(params, state):
    taken = min(state["taken"], state["copies"])
    if taken == 0:
        return list(params)
    kept = [state[f"copy{i}"] for i in range(taken)]
    return [sum(rest, first) / taken for first, *rest in zip(*kept, strict=True)]
