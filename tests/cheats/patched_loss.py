"""Cheat: a loss and a metric that are always nought, in its own process."""

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "patched"]}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        if hp.way == "patched":
            workload = task._workload
            workload.loss = lambda model, batch: sum((0.0 * p).sum() for p in model.parameters())
            workload.metric = lambda model, batch: {"relative_error": 0.0}
            workload.score = lambda sums: {"relative_error": 0.0}

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        for p in self.task.params:
            p.data.sub_(p.grad, alpha=self.hp.lr)
        return loss

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
