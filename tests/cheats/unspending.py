"""Cheat: use private examples and report less of it, or learn what they are without a report."""

import os

PASSES = {"per_example_gradients": 1}
SPACE = {"lr": 0.1, "way": {"choice": ["honest", "look", "count", "noise"]}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp

    def step(self):
        task, way = self.task, self.hp.way
        if way == "look":
            task.next_batch()["targets"].bincount()
        grads = task.private_gradient(1.0, 0.0 if way == "noise" else 2.0)
        if way == "count":
            task.ledger.spent.clear()
        if way == "noise":
            calls = sum(task.ledger.spent.values())
            task.ledger.spent.clear()
            task.ledger.spent["2.0"] = calls
            os.write(1, b"GOT it reports noise that was not added\n")
        for p, g in zip(task.params, grads, strict=True):
            p.data.sub_(g, alpha=self.hp.lr)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
