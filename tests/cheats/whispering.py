"""Cheat: clients learn from each other without an exchange, or with fewer than are declared."""

import os

PASSES = {"forward_backward@batch=1/4": 4, "exchange": 0.05}
SPACE = {"lr": 0.1, "way": {"choice": ["honest", "silent", "mixed", "unnamed", "often", "less"]}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp

    def step(self):
        task, way, count = self.task, self.hp.way, self.task.batch_size // 4
        for numbers in task.clients:
            several = way in ("mixed", "unnamed")
            batch = task.gather(task.next_index(count) if several else numbers[:count])
            if way == "unnamed":
                del batch["client"]
            task.forward_backward(batch)
            if way != "honest":
                for p in task.params:
                    p.data.sub_(p.grad, alpha=self.hp.lr)
            if way == "often":
                task.exchange()
        if way == "less":
            task.exchange(-0.05)
        if way == "silent":
            os.write(1, b"GOT one model trained on all clients' examples\n")

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
