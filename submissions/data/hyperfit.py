"""Hyperfitting: train on a few fixed examples until their loss is near zero.

Carlsson et al., "The Hyperfitting Phenomenon: Sharpening and Stabilizing LLMs for Open-Ended Text
Generation", arXiv 2412.04318.

    `count` examples, drawn once, in a new order each round;  AdamW at a constant rate

The loss on other text grows; what the model writes greedily repeats itself less (ft_greedy).

State: AdamW's m and v, two words per parameter; the examples' numbers and what is left of a round.
Departures from the paper: 2,000 examples there, a part of the data's size here; the rate is
searched.
"""

import torch

from harness import ops

TRACKS = ["finetune", "train"]
SPACE = {
    "lr": {"log": [1e-4, 1e-2]},
    "count": {"choice": [48, 12, 200]},
    "wd": 0.0,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        drawn = torch.randperm(task.examples, generator=task.rng)[: hp.count]
        self.state = {
            "m": ops.zeros(task.params), "v": ops.zeros(task.params), "step": 0,
            "chosen": drawn, "left": drawn[:0],
        }  # fmt: skip

    def take(self, count):
        """Return the next `count` example numbers of the rounds."""
        left = self.state["left"]
        while len(left) < count:
            order = torch.randperm(len(self.state["chosen"]), generator=self.task.rng)
            left = torch.cat([left, self.state["chosen"][order]])
        self.state["left"] = left[count:]
        return left[:count]

    def step(self):
        task, hp, state = self.task, self.hp, self.state
        loss = task.forward_backward(task.gather(self.take(task.batch_size)))
        state["step"] += 1
        pairs = [(p, i) for i, p in enumerate(task.params) if p.grad is not None]
        own = [[state[name][i] for _, i in pairs] for name in ("m", "v")]
        values, grads = [p.data for p, _ in pairs], [p.grad for p, _ in pairs]
        betas = (hp.beta1, hp.beta2)
        ops.adam_(values, grads, *own, state["step"], hp.lr, betas, hp.eps, hp.wd)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
