"""Joint: each step trains on a batch of all examples seen so far; the upper bound.

Incremental joint training as in Hess, Tuytelaars and van de Ven, arXiv 2311.04898.

    memory takes in the new batch;  g = ∇L(batch drawn uniformly from the memory);  finetune's step

State: finetune's; every example seen, which requires a stream with enough memory.
Departures from the paper: batches keep their size as tasks accumulate.
"""

from harness import ops
from harness.memory import Buffer
from submissions.continual import finetune

TRACKS = ["continual"]
SPACE = finetune.SPACE


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state, self.memory = finetune.init(task.params, hp), Buffer(task.memory)

    def step(self):
        task = self.task
        self.memory.add(task.next_batch(), task.rng)
        loss = task.forward_backward(self.memory.sample(task.batch_size, task.rng))
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        return loss

    def state_dict(self):
        return {"state": self.state, "memory": self.memory.state_dict()}

    def load_state_dict(self, saved):
        self.state = saved["state"]
        self.memory.load_state_dict(saved["memory"])
