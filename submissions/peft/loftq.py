"""LoftQ: LoRA on a rounded base, both chosen so that their sum is near the pretrained weights.

Li et al., "LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models", arXiv 2310.08659.

    L = 0;  `rounds` times:  Q = q(W - L), then L = U_r·S_r·V_rᵀ of W - Q
    W' = Q + s·B·A with s·B·A = L at the start, Q frozen;  s = α/r

State: AdamW's for A and B, r(in + out) scalars a matrix.
Departures from the paper: q rounds each row to an even grid (submissions/quantized/rtn.py), one of
the paper's two. The rounded base is kept and handed over in float32, so no memory is saved.
"""

import torch

from harness import surgery
from submissions.peft import head_only, lora, olora
from submissions.quantized import rtn

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-4, 1e-2]},
    "rank": {"int": [1, 16], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
    "bits": {"int": [2, 8], "default": 4},
    "rounds": {"int": [1, 5], "default": 3},
}


def split(weight, rank, bits, rounds):
    """Return the rounded matrix, and the two factors of what it lacks."""
    low = torch.zeros_like(weight)
    for _ in range(rounds):
        q = rtn.rounded(weight - low, *rtn.grid(weight - low, bits), bits)
        u, s, v = torch.linalg.svd(weight - q, full_matrices=False)
        b, a = u[:, :rank] * s[:rank].sqrt(), s[:rank, None].sqrt() * v[:rank]
        low = b @ a
    return q, b, a


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lora.size)
    scale = hp.alpha / rank

    def begun(linear):
        q, b, a = split(linear.weight.detach(), rank, hp.bits, hp.rounds)
        b, a = b / scale**0.5, a / scale**0.5
        linear.weight.data.copy_(q + scale * b @ a)
        return olora.Begun(linear, scale, b, a)

    surgery.replace(model, begun)
