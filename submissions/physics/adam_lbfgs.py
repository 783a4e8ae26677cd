"""Adam, then L-BFGS: the usual recipe for PINNs.

Rathore et al., "Challenges in Training PINNs: A Loss Landscape Perspective", arXiv 2402.01868,
compare such recipes.

    the first `warm` of the horizon: AdamW on new points in every step
    then L-BFGS on points that are drawn anew every `hold` steps, its pairs forgotten each time

State: AdamW's m and v, two words per parameter; or lbfgs's, and the points.
Departures from the paper: L-BFGS is `lbfgs`, with one step size a step in place of a line search.
"""

from harness import ops
from submissions.first_order import adamw
from submissions.samplers import uniform
from submissions.second_order import lbfgs

PASSES = {"forward_backward": 1.9}
SPACE = {
    "lr": {"log": [5e-4, 1e-2]},
    "warm": {"choice": [0.3, 0.1, 0.7]},
    "hold": {"choice": [200, 50, 1000]},
    "pairs": {"choice": [20, 50, 100]},
    "wd": 0.0,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "warmup": 0.02,
    "armijo": 1e-4,
    "curved": 1e-8,
}


class Held:
    """A task whose next batch is always at the same points; all else is the task's."""

    def __init__(self, task, points):
        self.task, self.points = task, points

    def __getattr__(self, name):
        return getattr(self.task, name)

    def next_batch(self):
        return self.task.batch_at(self.points)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.adam, self.held, self.lbfgs = adamw.init(task.params, hp), None, None

    @property
    def warm(self):
        return round(self.hp.warm * self.task.horizon)

    def step(self):
        task, hp = self.task, self.hp
        if task.step < self.warm:
            loss = task.forward_backward(task.batch_at(uniform.draw(task, task.batch_size)))
            ops.apply(adamw.update, task.params, self.adam, hp, task.progress)
            return loss
        if (task.step - self.warm) % hp.hold == 0:
            self.begin(uniform.draw(task, task.batch_size))
        return self.lbfgs.step()

    def begin(self, points):
        """Start L-BFGS, without pairs, on a set of points."""
        self.adam = {}
        self.held = Held(self.task, points)
        hp = type(self.hp)(**{**vars(self.hp), "lr": 1.0})
        self.lbfgs = lbfgs.Algorithm(self.held, hp)

    def state_dict(self):
        late = {"points": self.held.points, "lbfgs": self.lbfgs.state_dict()} if self.held else {}
        return {"adam": self.adam} | late

    def load_state_dict(self, state):
        if "points" in state:
            self.begin(state["points"])
            self.lbfgs.load_state_dict(state["lbfgs"])
        self.adam = state["adam"]
