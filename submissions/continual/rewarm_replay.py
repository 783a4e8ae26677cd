"""Re-warm and replay: each task warms the learning rate up again and replays a little.

Ibrahim et al., "Simple and Scalable Strategies to Continually Pre-train Large Language Models",
arXiv 2403.08763; Gupta et al., arXiv 2308.04014.

    lr(s) = warm-up over `warmup` of the task's steps, then a cosine down to a tenth
    er's mixed gradient with weight `replay` on the memory;  AdamW's step

State: AdamW's m and v, two words per parameter; the step; a reservoir of `task.memory` bytes.
Departures from the paper: `replay` is the weight of a replayed batch's loss, not a share of the
batch; the memory is a bounded reservoir, not the whole past.
"""

from harness import ops
from harness.memory import Buffer
from harness.schedules import warmup_cosine
from submissions.continual import er
from submissions.first_order import adamw

TRACKS = ["continual"]
PASSES = er.PASSES
SPACE = {
    "lr": {"log": [3e-4, 2e-2]},
    "wd": {"log": [1e-3, 1.0]},
    "beta1": 0.9,
    "beta2": {"choice": [0.95, 0.99, 0.999]},
    "eps": 1e-8,
    "warmup": {"log": [0.01, 0.1]},
    "replay": {"choice": [0.25, 0.05, 0.5]},
}


def re_decay(params, grads, state, hp, progress):
    """Apply AdamW's step; progress is the task's."""
    state["step"] += 1
    m, v, step = state["m"], state["v"], state["step"]
    lr, betas = hp.lr * warmup_cosine(progress, hp.warmup, 0.1), (hp.beta1, hp.beta2)
    ops.adam_(params, grads, m, v, step, lr, betas, hp.eps, hp.wd)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state, self.memory = adamw.init(task.params, hp), Buffer(task.memory)

    def step(self):
        task, hp = self.task, self.hp
        first, length = task.segment
        batch = task.next_batch()
        loss = er.mix(task, batch, self.memory, 1 - hp.replay)
        ops.apply(re_decay, task.params, self.state, hp, (task.step - first + 0.5) / length)
        self.memory.add(batch, task.rng)
        return loss

    def state_dict(self):
        return {"state": self.state, "memory": self.memory.state_dict()}

    def load_state_dict(self, saved):
        self.state = saved["state"]
        self.memory.load_state_dict(saved["memory"])
