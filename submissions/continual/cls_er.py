"""CLS-ER: replay towards the better of two averages of the weights, one fast and one slow.

Arani, Sarfraz, Zonooz, "Learning Fast, Learning Slow: A General Continual Learning Method based on
Complementary Learning System", arXiv 2201.12604.

    target of a replayed example: the scores of that average which gives its class more probability
    L = nats(new and replayed) + reg·mean (f(x) − target)² over the replayed;  finetune's step on ∇L
    with its probability each average moves: w̄ ← a·w̄ + (1 − a)·θ,  a = min(1 − 1/(t + 1), alpha)
    evaluated: the slow average

State: finetune's; two averages, two words per parameter; the step; er's reservoir.
Departures from the paper: none known; step, ramp and draws are those of the authors' code.
"""

import torch

from harness import ops
from submissions.continual import er, finetune

TRACKS = ["continual"]
PASSES = {"forward_backward@batch=2": 1, "forward": 2, "forward_backward": 0.01}
SPACE = {
    **finetune.SPACE,
    "reg": {"log": [0.05, 2.0], "default": 0.3},
    "alpha": {"choice": [0.95, 0.99, 0.999]},
    "slow": {"linear": [0.1, 0.9], "default": 0.8},
    "fast": {"linear": [0.5, 1.0], "default": 1.0},
}


class Algorithm(er.Algorithm):
    def __init__(self, task, hp):
        super().__init__(task, hp)
        self.averages, self.moved = [ops.copies(task.params), ops.copies(task.params)], 0

    def step(self):
        task, hp = self.task, self.hp
        batch = task.next_batch()
        if len(self.memory):
            old = self.memory.sample(task.batch_size, task.rng)
            both, target = {k: torch.cat([batch[k], old[k]]) for k in batch}, self.target(old)
            loss = task.backward(both, lambda _, both: self.loss(both, target))
        else:
            loss = task.forward_backward(batch)
        ops.apply(finetune.update, task.params, self.state, hp, task.progress)
        self.memory.add(batch, task.rng)
        self.moved += 1
        for average, chance in zip(self.averages, (hp.fast, hp.slow), strict=True):
            if torch.rand((), generator=task.rng, dtype=torch.float64) < chance:
                left = max(1 / (self.moved + 1), 1 - hp.alpha)
                torch._foreach_lerp_(average, [p.data for p in task.params], left)
        return loss

    def target(self, old):
        """Return each example's scores by the average that is surer of its class."""
        task = self.task
        fast, slow = (task.logits_of(average, old) for average in self.averages)
        surer = task.nats(fast, old) < task.nats(slow, old)
        return torch.where(surer.view(-1, *[1] * (fast.ndim - 1)), fast, slow)

    def loss(self, both, target):
        scores = self.task.logits(both)
        apart = (scores[-len(target) :] - target).square().mean()
        return self.task.nats(scores, both).mean() + self.hp.reg * apart

    def evaluate_view(self):
        return self.averages[1]

    def state_dict(self):
        return super().state_dict() | {"averages": self.averages, "moved": self.moved}

    def load_state_dict(self, saved):
        super().load_state_dict(saved)
        self.averages, self.moved = saved["averages"], saved["moved"]
