"""ASHA: AdamW runs of random (lr, wd); the next job promotes a run of the best quarter of its rung.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", arXiv 1810.05934, Algorithm 2,
with η = 4, s = 0 and rungs at r, 4r and 16r steps.

    for the next job, from the upper rung down: if a run of the best ⌊n/4⌋ of the n runs in the rung
    was not promoted yet, train it to the next rung; else train a new random run for r steps

r is a 42nd part of the horizon. Nothing waits for a rung to be full. Evaluated is the run of the
least loss in the highest rung that has one.
State: weights, m and v of each run, three words per parameter each; about eighteen runs.
Departures from the paper: one worker, so jobs come one after the other; fitness is the mean
training loss of the last quarter of a job's steps.
"""

import torch

from submissions.first_order import adamw
from submissions.tuners import hyperband

ETA, RUNGS, SHORTEST = 4, 3, 42
SPACE = {**adamw.SPACE, "spread": {"log": [3.0, 30.0]}}


def next_job(losses, promoted):
    """Return the run to promote and the rung that it goes to, or None for a new run.

    Args:
        losses: for each rung the losses of the runs that reached it, by run.
        promoted: for each rung the runs that were promoted out of it.
    """
    for rung in range(len(losses) - 2, -1, -1):
        ranked = sorted(losses[rung], key=lambda run: losses[rung][run])
        for run in ranked[: len(ranked) // ETA]:
            if run not in promoted[rung]:
                return run, rung + 1
    return None


class Algorithm(hyperband.Algorithm):
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.shortest = max(1, task.horizon // SHORTEST)
        self.most = self.shortest * ETA ** (RUNGS - 1)
        self.first = [p.detach().clone() for p in task.params]
        self.state = {"points": [], "start": self.first, "job": None}
        self.state |= {"losses": [{} for _ in range(RUNGS)], "promoted": [[] for _ in range(RUNGS)]}

    def begin(self):
        """Set the next job: a run, the rung that it goes to, and its steps so far."""
        state, self.first = self.state, self.state["start"]
        found = next_job(state["losses"], state["promoted"])
        if found:
            run, rung = found
            state["promoted"][rung - 1].append(run)
        else:
            state["points"].append(self.point())
            run, rung = len(state["points"]) - 1, 0
        state["job"] = [run, rung]
        state["points"][run]["loss"] = 0.0

    def step(self):
        state = self.state
        if state["job"] is None:
            self.begin()
        run, rung = state["job"]
        point, at = state["points"][run], state["points"][run]["steps"]
        first, last = self.shortest * ETA ** (rung - 1) if rung else 0, self.shortest * ETA**rung
        tail = max(1, (last - first) // 4)
        loss = self.train(point, at, tail if at >= last - tail else 0)
        if point["steps"] == last:
            state["losses"][rung][run] = hyperband.settled(point["loss"])
            state["job"] = None
        torch._foreach_copy_([p.data for p in self.task.params], self.evaluate_view())
        return loss

    def evaluate_view(self):
        """Return the weights of the best run of the highest rung, or those at hand before any."""
        for losses in reversed(self.state["losses"]):
            if losses:
                return self.state["points"][min(losses, key=lambda run: losses[run])]["params"]
        points = self.state["points"]
        return points[-1]["params"] if points else self.state["start"]
