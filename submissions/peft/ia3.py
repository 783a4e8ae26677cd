"""IA3: one trained factor for each output of a matrix, or for each input of one that narrows.

Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context
Learning", arXiv 2205.05638.

    y' = l ⊙ (W x + b)  where W has at least as many outputs as inputs
    y' = W (l ⊙ x) + b  elsewhere
    l = 1 at the start

State: AdamW's for l: max(in, out) scalars a matrix.
Departures from the paper: the paper scales keys, values and the inner layer of the perceptron. Here
every hidden matrix has a vector, because a fused query-key-value matrix does not say which rows are
which; where the goal's share is too small for all, matrices that narrow come first, then those of
the shortest vectors. AdamW in place of Adafactor, without decay, because l is 1 at rest.
"""

import torch.nn.functional as F
from torch import nn

from harness import surgery
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_wd": 0.0,
    "base_lr": {"log": [1e-3, 1e-1]},
    # Largest share of all parameters that may train: vectors are given while they fit.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
}


class IA3(surgery.Adapted):
    def __init__(self, linear):
        super().__init__(linear)
        out, inputs = self.weight.shape
        self.narrows = inputs > out
        self.l = nn.Parameter(self.weight.new_ones(max(out, inputs)))

    def dense(self):
        return self.weight * (self.l if self.narrows else self.l[:, None])

    def dense_bias(self):
        return self.bias if self.bias is None or self.narrows else self.bias * self.l

    def forward(self, x):
        if self.narrows:
            return F.linear(x * self.l, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias) * self.l


def chosen(model, share):
    """Return the maps that get a vector."""
    left, found = share * sum(p.numel() for p in model.parameters()), set()

    def order(linear):
        out, inputs = linear.weight.shape
        return inputs <= out, max(out, inputs)

    for linear in sorted(surgery.matrices(model).values(), key=order):
        if (cost := max(linear.weight.shape)) <= left:
            left -= cost
            found.add(linear)
    return found


def adapt(model, task, hp):
    surgery.freeze(model)
    scaled = chosen(model, hp.share)
    surgery.replace(model, lambda linear: IA3(linear) if linear in scaled else linear)
