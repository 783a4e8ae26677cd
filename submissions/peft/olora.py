"""OLoRA: LoRA that starts from the first rows and columns of a QR decomposition of the weights.

Büyükakyüz, "OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models", arXiv 2406.01775.

    W = Q·R;  B = Q_·1..r, A = R_1..r·;  W - s·B·A takes the place of W;  then as LoRA, s = α/r

State: AdamW's for A and B, r(in + out) scalars a matrix.
Departures from the paper: none.
"""

import torch

from harness import surgery
from submissions.peft import head_only, lora

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-4, 1e-2]},
    "rank": {"int": [1, 16], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
}


class Begun(lora.LoRA):
    """LoRA that starts from given factors: W - s·B·A takes the place of W."""

    def __init__(self, linear, scale, b, a):
        super().__init__(linear, len(a), scale)
        with torch.no_grad():
            self.B.copy_(b)
            self.A.copy_(a)
            self.weight.sub_(scale * self.B @ self.A)


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lora.size)

    def begun(linear):
        q, r = torch.linalg.qr(linear.weight.detach())
        return Begun(linear, hp.alpha / rank, q[:, :rank], r[:rank])

    surgery.replace(model, begun)
