"""Trusted TPE: TPE that ranks its trials by the loss on trusted examples.

Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NIPS 2011, section 4; the estimator
is that of the package optuna.

    trials, points and the long run of `tpe`; training and fitness of `trusted_hyperband`: a trial's
    loss is the mean loss on trusted examples after each step of its last quarter

State: as `tpe`.
Departures from the paper: as in `tpe`; the workload needs trusted examples (`clean`).
"""

import math
from functools import cached_property

from harness import ops
from submissions.first_order import adamw
from submissions.tuners import tpe, trusted_hyperband

# An eighth: half of the steps are trials'.
PASSES = {"forward_backward": 1, "forward": 0.125}
SPACE = {**adamw.SPACE, "spread": {"log": [3.0, 30.0]}}


class Algorithm(tpe.Algorithm):
    @cached_property
    def others(self):
        return trusted_hyperband.not_trusted(self.task)

    def step(self):
        task, state, length = self.task, self.state, self.length
        turn, at = divmod(task.step, length)
        searching = turn < tpe.TRIALS
        if not searching:
            at, length = task.step - tpe.TRIALS * length, task.horizon - tpe.TRIALS * length
        if at == 0:
            self.begin()
        point = state["trials"][-1] if searching else state["best"]
        loss = task.forward_backward(trusted_hyperband.drawn(task, self.others))
        mine = type(self.hp)(**vars(self.hp) | {"lr": point["lr"], "wd": point["wd"]})
        ops.apply(adamw.update, task.params, state["adam"], mine, (at + 0.5) / length)
        tail = max(1, length // 4)
        if searching and at >= length - tail:
            value = trusted_hyperband.fitness(task, at) / tail
            # A trial that diverged is worse than any other, and the estimator needs a number.
            point["loss"] += value if math.isfinite(value) else 1e9
        return loss
