"""IST: LoRA of which a few blocks train at a step, chosen by what they were found to be worth.

Yao et al., "Layer-wise Importance Matters: Less Memory for Better Performance in
Parameter-efficient Fine-tuning of Large Language Models", arXiv 2410.11772.

    I = 0 for each block;  a step trains the adapters of `share_trained` of the blocks, which are
    drawn without replacement with weights σ(-I)
    every `period` steps three different halves of the blocks are drawn with weights σ(I): for each,
    their adapters are scaled by 0.25 and the loss ℓ_k of a batch is taken;
    I_i ← I_i + `rise`·(e^-ℓ_k - mean e^-ℓ)·p_i(1 - p_i) for the blocks i of each half k, p = σ(I)
    of before

A large I marks a block that costs little when it is damped.
State: AdamW's for A and B, r(in + out) scalars a matrix; I.
Departures from the paper: the batch that scores blocks is of training data. Blocks that are not
drawn keep their optimizer state and do not move.
"""

import math

import torch

from harness.errors import UserError
from submissions.first_order import adamw
from submissions.peft import head_only, lora

PASSES = {"forward_backward": 1, "forward": 0.3}
TRACKS = ["finetune"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [1e-3, 5e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "head_lr": 5e-3,
    "rank": {"int": [1, 16], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
    "scale": "standard",
    "start": "zero",
    "share_trained": {"linear": [0.1, 1.0], "default": 0.25},
    "damped": 0.25,
    "period": 10,
    "rise": 10.0,
}


def adapt(model, task, hp):
    lora.adapt(model, task, hp)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.trainer = task, hp, head_only.Trainer(task, hp)
        if not getattr(task.model, "blocks", None):
            raise UserError("ist trains the adapters of some blocks; this model has no blocks")
        self.blocks = [
            [m for m in block.modules() if isinstance(m, lora.LoRA)] for block in task.model.blocks
        ]
        self.worth = [0.0] * len(self.blocks)

    def drawn(self, count, sign):
        """Return the numbers of `count` blocks, drawn with weights σ(sign·I)."""
        weights = torch.tensor(self.worth, dtype=torch.float64).mul(sign).sigmoid()
        return sorted(torch.multinomial(weights, count, generator=self.task.rng).tolist())

    def step(self):
        task, hp, count = self.task, self.hp, len(self.blocks)
        if task.step and task.step % hp.period == 0:
            self.probe(task.next_batch())
        chosen = self.drawn(max(1, int(hp.share_trained * count)), -1)
        loss = task.forward_backward(task.next_batch())
        for i in set(range(count)) - set(chosen):
            for m in self.blocks[i]:
                m.A.grad = m.B.grad = None
        self.trainer.update()
        return loss

    def probe(self, batch):
        count, halves, values = len(self.blocks), [], []
        half = max(1, count // 2)
        for _ in range(min(3, math.comb(count, half))):
            while (part := self.drawn(half, 1)) in halves:
                pass
            halves.append(part)
            maps = [m for i in part for m in self.blocks[i]]
            scales = [m.scale for m in maps]
            for m in maps:
                m.scale *= self.hp.damped
            values.append(math.exp(-float(self.task.forward(batch))))
            for m, scale in zip(maps, scales):
                m.scale = scale
        slopes = [self.hp.rise * p * (1 - p) for p in (1 / (1 + math.exp(-i)) for i in self.worth)]
        for part, value in zip(halves, values):
            for i in part:
                self.worth[i] += (value - sum(values) / len(values)) * slopes[i]

    def state_dict(self):
        return {"trainer": self.trainer.state, "worth": self.worth}

    def load_state_dict(self, state):
        self.trainer.state, self.worth = state["trainer"], state["worth"]
