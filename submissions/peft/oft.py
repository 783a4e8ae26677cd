"""OFT: every frozen matrix is multiplied by trained orthogonal blocks.

Qiu et al., "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", arXiv 2306.07280;
factors and scale: BOFT, Liu et al., "Parameter-Efficient Orthogonal Finetuning via Butterfly
Factorization", arXiv 2311.06243.

    W' = W·R;  R = Π_k P_k·diag(R_k1, ..., R_kn)·P_kᵀ;  R_kj = ((I - Q)(I + Q)⁻¹)ᵀ, Q skew, b x b
    Q = 0 at the start;  P_0 = I; P_k brings the half-blocks with even numbers in front of the odd
    ones in every 2ᵏ·b inputs;  scaled: the rows of W·R are multiplied by a trained s, 1 at first

State: AdamW's for the Q, b(b - 1)/2 scalars a block: factors·in·(b - 1)/2 a matrix; out for s.
Departures from the paper: b is the largest divisor of the inputs up to `block`, and factors that
would not divide them are left out. The constrained form (COFT) is not offered. AdamW without decay.
"""

import torch
from torch import nn

from harness import surgery
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_wd": 0.0,
    "base_lr": {"log": [1e-3, 5e-2]},
    # b, at most.
    "block": {"int": [2, 32], "default": 8},
    # Largest share of all parameters that may train: an upper bound on b.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "factors": {"choice": [1, 2, 3], "tuned": False},
    "scaled": {"choice": [False, True], "tuned": False},
}
VARIANTS = {"boft": {"factors": 2, "scaled": True}}


def fit(inputs, block, factors):
    """Return b and the number of factors that divide the inputs."""
    b = max(d for d in range(1, block + 1) if inputs % d == 0)
    while factors > 1 and (b % 2 or inputs % (b * 2 ** (factors - 1))):
        factors -= 1
    return b, factors


class OFT(surgery.Adapted):
    def __init__(self, linear, block, factors, scaled):
        super().__init__(linear)
        out, inputs = self.weight.shape
        self.b, count = fit(inputs, block, factors)
        self.Q = nn.Parameter(
            self.weight.new_zeros(count, inputs // self.b, self.b * (self.b - 1) // 2)
        )
        self.s = nn.Parameter(self.weight.new_ones(out)) if scaled else None

    def blocks(self, values):
        """Return the orthogonal blocks [n, b, b] of a factor."""
        q = values.new_zeros(len(values), self.b, self.b)
        row, column = torch.triu_indices(self.b, self.b, 1)
        q[:, row, column] = values
        q, one = q - q.mT, torch.eye(self.b).to(q)
        return torch.linalg.solve(one + q, one - q, left=False)

    def dense(self):
        w = self.weight
        for k, values in enumerate(self.Q):
            # [out, segment, number of a half-block, first or second, inside]
            parts = (-1, 2**k, 2, self.b // 2) if k else (-1, 1, 1, self.b)
            w = w.unflatten(1, parts).transpose(2, 3)
            blocks = w.reshape(len(w), -1, self.b)
            turned = torch.einsum("onc,nkc->onk", blocks, self.blocks(values))
            w = turned.reshape(w.shape).transpose(2, 3).flatten(1)
        return w if self.s is None else self.s[:, None] * w


def adapt(model, task, hp):
    def size(out, inputs, block):
        b, factors = fit(inputs, block, hp.factors)
        return factors * inputs * (b - 1) // 2 + out * hp.scaled

    surgery.freeze(model)
    block = surgery.fitting(model, hp.block, hp.share, size)
    surgery.replace(model, lambda linear: OFT(linear, max(2, block), hp.factors, hp.scaled))
