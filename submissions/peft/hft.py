"""Half fine-tuning: each round trains another random half of the parameter tensors.

Hui et al., "HFT: Half Fine-Tuning for Large Language Models", arXiv 2404.18466.

    every round, in every block: pair its attention matrices, its feed-forward matrices, its norms
    and its biases; one of each pair, drawn at random, trains, and the other is frozen

Embeddings, the last norm and the head always train.
State: AdamW's for the half that trains, two words per parameter.
Departures from the paper: rounds are eighths of the horizon. Queries, keys and values are one
matrix here and there is no gate, so one of two matrices trains, where the paper takes two of four
and one or two of three. AdamW restarts each round (the paper does not specify this). No code is
public: the categories follow a later comparison of such methods.
"""

from collections import defaultdict

import torch

from harness import roles
from submissions.first_order import adamw
from submissions.peft import head_only, lisa

TRACKS = ["finetune"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [3e-4, 1e-2]},
    "wd": 0.01,
    "beta2": 0.99,
    "head_lr": 5e-3,
    "rounds": 8,
}


class Algorithm(lisa.Algorithm):
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        kinds, self.groups = roles.of(task.model), defaultdict(list)
        for i, block in enumerate(task.model.blocks):
            inside = {id(p) for p in block.parameters()}
            for name, p in task.model.named_parameters():
                if id(p) in inside:
                    self.groups[i, kinds[name].kind].append(p)
        self.train([])
        self.trainer = head_only.Trainer(task, hp)

    def train(self, chosen):
        self.chosen, members = chosen, [p for group in self.groups.values() for p in group]
        for i, p in enumerate(members):
            p.requires_grad_(i in chosen)

    def step(self):
        if self.task.step % -(-self.task.horizon // self.hp.rounds) == 0:
            chosen, first = [], 0
            for group in self.groups.values():
                pairs = range(first, first + len(group), 2)
                coins = torch.randint(2, (len(pairs),), generator=self.task.rng).tolist()
                first += len(group)
                chosen += [at + coin for at, coin in zip(pairs, coins) if at + coin < first]
            self.train(chosen)
            self.trainer.reset()
        loss = self.task.forward_backward(self.task.next_batch())
        self.trainer.update()
        return loss
