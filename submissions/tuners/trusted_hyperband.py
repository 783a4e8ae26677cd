"""Trusted Hyperband: Hyperband that ranks its runs by the loss on trusted examples.

Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization",
arXiv 1603.06560; its fitness is a loss on examples that do not train.

    a run trains on batches drawn at random from the examples that are not trusted
    fitness: mean loss on a batch of trusted examples after each step of a rung's last quarter; step
    t of every run has the same batch

Everything else is `hyperband`: rungs, budget, points, schedule, evaluation. By the training loss a
run that has learnt wrong labels is the best.
State: as `hyperband`.
Departures from the paper: as in `hyperband`; the workload needs trusted examples (`clean`).
"""

from functools import cached_property

import torch

from harness import ops
from submissions.first_order import adamw
from submissions.tuners import hyperband

PASSES = {"forward_backward": 1, "forward": 0.25}
SPACE = {**adamw.SPACE, "spread": {"log": [3.0, 30.0]}}
SKIPS = {"passes": "a rung of a short run has one or two steps, and each is the last quarter"}


def not_trusted(task):
    """Return the numbers of the examples that are not trusted, [N − T]."""
    return torch.arange(task.examples)[~torch.isin(torch.arange(task.examples), task.trusted)]


def drawn(task, numbers):
    """Return a batch of examples drawn from `numbers` with replacement."""
    places = torch.randint(len(numbers), (task.batch_size,), generator=task.rng)
    return task.gather(numbers[places])


def fitness(task, at):
    """Return the loss on the batch of trusted examples whose turn is step `at`."""
    places = at * task.batch_size + torch.arange(task.batch_size)
    return float(task.forward(task.gather(task.trusted[places % len(task.trusted)])))


class Algorithm(hyperband.Algorithm):
    @cached_property
    def others(self):
        return not_trusted(self.task)

    def train(self, point, at, share):
        """Train a point for one step; add its fitness to the point's mean over `share` steps."""
        task, params = self.task, [p.data for p in self.task.params]
        torch._foreach_copy_(params, point["params"])
        loss = task.forward_backward(drawn(task, self.others))
        mine = type(self.hp)(**vars(self.hp) | {"lr": point["lr"], "wd": point["wd"]})
        ops.apply(adamw.update, task.params, point["adam"], mine, (at + 0.5) / self.most)
        torch._foreach_copy_(point["params"], params)
        point["steps"] = at + 1
        if share:
            point["loss"] += fitness(task, at) / share
        return loss
