"""HRA: every frozen matrix is multiplied by a chain of trained Householder reflections.

Yuan et al., "Bridging The Gap between Low-rank and Orthogonal Adaptation via Householder Reflection
Adaptation", arXiv 2405.17484.

    W' = W·H_1···H_r,  H_k = I - 2·u_k·u_kᵀ/‖u_k‖²;  r even, u_2k = u_2k-1 at the start, so W' = W

State: AdamW's for the u: r·in scalars a matrix.
Departures from the paper: no penalty that keeps the u orthogonal, which is the paper's λ = 0.
"""

from torch import nn

from harness import surgery
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_wd": 0.0,
    "base_lr": {"log": [1e-3, 1e-1]},
    # r/2
    "pairs": {"int": [1, 8], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the pairs.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
}


class HRA(surgery.Adapted):
    def __init__(self, linear, pairs):
        super().__init__(linear)
        bound = pairs**-0.5
        half = self.weight.new_empty(pairs, self.weight.shape[1]).uniform_(-bound, bound)
        self.U = nn.Parameter(half.repeat_interleave(2, dim=0))

    def dense(self):
        w = self.weight
        for u in self.U / self.U.norm(dim=1, keepdim=True):
            w = w - 2 * (w @ u)[:, None] * u
        return w


def adapt(model, task, hp):
    surgery.freeze(model)
    pairs = surgery.fitting(model, hp.pairs, hp.share, lambda out, inputs, n: 2 * n * inputs)
    surgery.replace(model, lambda linear: HRA(linear, pairs))
