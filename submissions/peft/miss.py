"""MiSS: one small trained matrix, repeated over the inputs of every frozen matrix.

Kang, Yin, "MiSS: Balancing LoRA Performance and Efficiency with Simple Shard Sharing" (first named
Bone), arXiv 2409.15371.

    W'_ac = W_ac + D_(c mod r),a,  D [r, out] = 0 at the start
    so y' = W x + b + Dᵀ·(sum of the pieces of r inputs)

State: AdamW's for D: r·out scalars a matrix.
Departures from the paper: none.
"""

from torch import nn

from harness import surgery
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [3e-4, 3e-2]},
    "rank": {"int": [1, 32], "default": 8},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
}


class MiSS(surgery.Adapted):
    def __init__(self, linear, rank):
        super().__init__(linear)
        self.D = nn.Parameter(self.weight.new_zeros(rank, len(self.weight)))

    def dense(self):
        inputs = self.weight.shape[1]
        return self.weight + self.D.T.repeat(1, -(-inputs // len(self.D)))[:, :inputs]


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lambda out, inputs, r: r * out)
    surgery.replace(model, lambda linear: MiSS(linear, rank))
