"""VB-LoRA: low-rank factors put together from one bank of vectors that all matrices share.

Li, Han, Ji, "VB-LoRA: Extreme Parameter Efficient Fine-Tuning with Vector Banks", arXiv 2405.15179.

    W' = W + B·A; every piece of v entries of a row of A, or a column of B, is
    Σ_j softmax(ℓ)_j·bank_j over the k largest logits ℓ of that piece
    bank ~ U(±0.02), logits ~ N(0, 0.1²)

State: AdamW's for bank and logits: bank·v, and bank·r(in + out)/v scalars a matrix.
Departures from the paper: v is the largest divisor of all sides up to `length`. The start is not
exactly the pretrained model, as in the paper.
"""

import math

from torch import nn

from harness import surgery
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_wd": 0.0,
    "base_lr": {"log": [1e-3, 5e-2]},
    "rank": {"int": [1, 8], "default": 2},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    # Vectors in the bank.
    "bank": 24,
    # v, at most.
    "length": {"int": [4, 64], "default": 32},
    # k
    "top": 2,
}


class VBLoRA(surgery.Adapted):
    def __init__(self, linear, bank, rank, top):
        super().__init__(linear)
        (out, inputs), (count, length) = self.weight.shape, bank.shape
        self.bank, self.top, new = bank, min(top, count), self.weight.new_empty
        self.at_a = nn.Parameter(new(rank, inputs // length, count).normal_(std=0.1))
        self.at_b = nn.Parameter(new(rank, out // length, count).normal_(std=0.1))

    def rows(self, logits):
        """Return the vectors [r, side] that the logits [r, side/v, bank] mix."""
        best, index = logits.topk(self.top, dim=-1)
        return (best.softmax(-1)[..., None] * self.bank[index]).sum(-2).flatten(1)

    def dense(self):
        return self.weight + self.rows(self.at_b).T @ self.rows(self.at_a)


def adapt(model, task, hp):
    surgery.freeze(model)
    sides = {side for w in surgery.weights(model) for side in w.shape}
    whole = math.gcd(*sides)
    length = max(d for d in range(1, hp.length + 1) if whole % d == 0)
    bank = nn.Parameter(next(model.parameters()).new_empty(hp.bank, length).uniform_(-0.02, 0.02))
    own = bank.numel() / len(surgery.weights(model))

    def size(out, inputs, rank):
        return own + hp.bank * rank * (out + inputs) // length

    rank = surgery.fitting(model, hp.rank, hp.share, size)
    surgery.replace(model, lambda linear: VBLoRA(linear, bank, rank, hp.top))
