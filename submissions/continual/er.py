"""Experience replay: each step also trains on examples drawn from a reservoir of the past.

Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", arXiv 1902.10486.

    g = share·∇L(new) + (1 − share)·∇L(replay);  finetune's step on g
    the reservoir takes in the new examples

State: finetune's; the reservoir, `task.memory` bytes of examples.
Departures from the paper: the two losses have weights (1/2 is the paper's mean over both); a replay
batch is as large as the new one, with repetition while the memory has fewer examples.
"""

import torch

from harness import ops
from harness.memory import Buffer
from submissions.continual import finetune

TRACKS = ["continual"]
PASSES = {"forward_backward": 2}
SPACE = {**finetune.SPACE, "share": {"linear": [0.1, 0.9]}}


def mix(task, batch, memory, share, loss_of=None):
    """Set the gradients to share·g(new) + (1 − share)·g(replay); to g(new) if memory is empty.

    `loss_of(model, batch)` is the loss of the new examples, the workload's own by default.
    """
    loss = task.backward(batch, loss_of) if loss_of else task.forward_backward(batch)
    if len(memory):
        grads = [p.grad for p in task.params if p.grad is not None]
        torch._foreach_mul_(grads, share / (1 - share))
        task.forward_backward(memory.sample(task.batch_size, task.rng), accumulate=True)
        torch._foreach_mul_([p.grad for p in task.params if p.grad is not None], 1 - share)
    return loss


class Algorithm:
    take = staticmethod(Buffer.add)

    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state, self.memory = finetune.init(task.params, hp), Buffer(task.memory)

    def step(self):
        task = self.task
        batch = task.next_batch()
        loss = mix(task, batch, self.memory, self.hp.share)
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        self.take(self.memory, batch, task.rng)
        return loss

    def state_dict(self):
        return {"state": self.state, "memory": self.memory.state_dict()}

    def load_state_dict(self, saved):
        self.state = saved["state"]
        self.memory.load_state_dict(saved["memory"])
