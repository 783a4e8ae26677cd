"""Hyperband: AdamW runs of random (lr, wd), with successive halving, within one budget.

Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization",
arXiv 1603.06560, Algorithm 1, with η = 3 and s from 2 to 0.

    bracket s: n = ⌈3/(s + 1)·3ˢ⌉ points (9, 5, 3)
    rung i trains each of ⌊n/3ⁱ⌋ points up to R/3^(s−i) steps; the best third by training loss go on

R is the largest that fits the horizon: every pass of every point counts. Evaluation uses the point
with the lowest loss among those with the most steps so far.
State: parameters, m and v of up to nine points and of the best one, thirty words per parameter.
Departures from the paper: fitness is the mean training loss of the last quarter of a rung's steps;
points continue instead of starting again; the steps left over train the best point further.
"""

import math

import torch

from harness import ops
from submissions.first_order import adamw

ETA, HIGHEST = 3, 2
SPACE = {**adamw.SPACE, "spread": {"log": [3.0, 30.0]}}


def plan(horizon):
    """Return rungs of (bracket, points, first step, last step), and the largest R that fits."""

    def rungs(most):
        found = []
        for s in range(HIGHEST, -1, -1):
            n = math.ceil((HIGHEST + 1) / (s + 1) * ETA**s)
            ends = [0, *(most // ETA ** (s - i) for i in range(s + 1))]
            found += [(s, n // ETA**i, ends[i], ends[i + 1]) for i in range(s + 1)]
        return found

    most = max(1, next(r for r in range(horizon, -1, -1) if cost(rungs(r)) <= horizon))
    return rungs(most), most


def settled(loss):
    """Return a loss, or infinity for one that is no number: a run that diverged is the worst."""
    return loss if math.isfinite(loss) else math.inf


def cost(rungs):
    return sum(n * (last - first) for _, n, first, last in rungs)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.rungs, self.most = plan(task.horizon)
        self.first = ops.copies(task.params)
        self.work = [
            (k, i, at)
            for k, (_, n, first, last) in enumerate(self.rungs)
            for i in range(n)
            for at in range(first, last)
        ]
        self.state = {"points": [], "best": self.point(), "start": self.first}

    def point(self):
        """Return a random untrained point, with a loss worse than any."""
        drawn = 2 * torch.rand(2, generator=self.task.rng) - 1
        return {
            "params": ops.copies(self.first),
            "adam": adamw.init(self.first, self.hp),
            "lr": self.hp.lr * self.hp.spread ** float(drawn[0]),
            "wd": self.hp.wd * self.hp.spread ** float(drawn[1]),
            "loss": math.inf,
            "steps": 0,
        }

    def step(self):
        if self.task.step >= len(self.work):
            return self.train(self.state["best"], self.most - 1, self.most)
        k, i, at = self.work[self.task.step]
        _, count, first, last = self.rungs[k]
        if at == first and i == 0:
            self.begin(first, count)
        point = self.state["points"][i]
        tail = last - max(1, (last - first) // 4)
        if at == tail:
            point["loss"] = 0.0
        loss = self.train(point, at, last - tail if at >= tail else 0)
        best = self.state["best"]
        if at == last - 1:
            point["loss"] = settled(point["loss"])
            better = (-last, point["loss"]) <= (-best["steps"], best["loss"])
            if better and point["loss"] < math.inf:
                self.state["best"] = self.copy(point)
        return loss

    def begin(self, first, count):
        """Draw new points for a new bracket, or keep the best points for a new rung."""
        if first == 0:
            self.first = self.state["start"]
            self.state["points"] = [self.point() for _ in range(count)]
        else:
            ranked = sorted(self.state["points"], key=lambda point: point["loss"])
            self.state["points"] = ranked[:count]

    def train(self, point, at, share):
        """Train a point for one step; add its loss to the point's mean over `share` steps."""
        task, params = self.task, [p.data for p in self.task.params]
        torch._foreach_copy_(params, point["params"])
        loss = task.forward_backward(task.next_batch())
        mine = type(self.hp)(**vars(self.hp) | {"lr": point["lr"], "wd": point["wd"]})
        ops.apply(adamw.update, task.params, point["adam"], mine, (at + 0.5) / self.most)
        torch._foreach_copy_(point["params"], params)
        point["steps"] = at + 1
        if share:
            point["loss"] += float(loss) / share
        return loss

    @staticmethod
    def copy(point):
        adam = {k: ops.copies(v) if isinstance(v, list) else v for k, v in point["adam"].items()}
        return point | {"params": ops.copies(point["params"]), "adam": adam}

    def evaluate_view(self):
        return self.state["best"]["params"]

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
