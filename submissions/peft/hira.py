"""HiRA: the frozen matrix times a low-rank product, element by element, as a change of full rank.

Huang et al., "HiRA: Parameter-Efficient Hadamard High-Rank Adaptation for Large Language Models",
ICLR 2025.

    W' = W ⊙ (1 + B·A),  A ~ U(±1/√in), B = 0 at the start

State: AdamW's for A and B: r(in + out) scalars a matrix.
Departures from the paper: none. Zeros of W stay zero.
"""

from torch import nn

from harness import surgery
from submissions.peft import head_only, lora

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [3e-3, 1e-1]},
    "rank": {"int": [1, 16], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
}


class HiRA(surgery.Adapted):
    def __init__(self, linear, rank):
        super().__init__(linear)
        (out, inputs), bound = self.weight.shape, self.weight.shape[1] ** -0.5
        self.A = nn.Parameter(self.weight.new_empty(rank, inputs).uniform_(-bound, bound))
        self.B = nn.Parameter(self.weight.new_zeros(out, rank))

    def dense(self):
        return self.weight * (1 + self.B @ self.A)


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lora.size)
    surgery.replace(model, lambda linear: HiRA(linear, rank))
