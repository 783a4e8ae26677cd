"""Trusted PBT: population-based training that ranks its members by the loss on trusted examples.

Jaderberg et al., "Population Based Training of Neural Networks", arXiv 1711.09846.

    members, turns and copies of `pbt`
    a member trains on batches drawn at random from the examples that are not trusted
    fitness: mean loss on two batches of trusted examples after its turn, the same for all members

State: as `pbt`.
Departures from the paper: as in `pbt`; the workload needs trusted examples (`clean`).
"""

from functools import cached_property

import torch

from harness import ops
from submissions.first_order import adamw
from submissions.tuners import pbt, trusted_hyperband

PASSES = {"forward_backward": 1, "forward": 0.2}
SPACE = {**adamw.SPACE, "turn": 10, "spread": {"log": [3.0, 30.0]}}
LOOKS = 2


class Algorithm(pbt.Algorithm):
    @cached_property
    def others(self):
        return trusted_hyperband.not_trusted(self.task)

    def step(self):
        task, hp = self.task, self.hp
        turns, at = divmod(task.step, hp.turn)
        member, params = self.state["members"][turns % pbt.MEMBERS], [p.data for p in task.params]
        torch._foreach_copy_(params, member["params"])
        loss = task.forward_backward(trusted_hyperband.drawn(task, self.others))
        mine = type(hp)(**vars(hp) | {"lr": member["lr"], "wd": member["wd"]})
        ops.apply(adamw.update, task.params, member["adam"], mine, task.progress)
        torch._foreach_copy_(member["params"], params)
        if at == hp.turn - 1:
            looks = [trusted_hyperband.fitness(task, look) for look in range(LOOKS)]
            member["loss"] = sum(looks) / LOOKS
            self.select(turns)
        torch._foreach_copy_(params, self.evaluate_view())
        return loss
