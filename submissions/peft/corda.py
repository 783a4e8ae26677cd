"""CorDA: LoRA on the directions that matter least, or most, for the inputs of calibration.

Yang et al., "CorDA: Context-Oriented Decomposition Adaptation of Large Language Models for
Task-Aware Parameter-Efficient Fine-tuning", arXiv 2406.05223.

    C = XᵀX/tokens + d·mean(diag)·I;  W·C = U·S·Vᵀ, so W = U·S·(Vᵀ·C⁻¹)
    keep "knowledge": the r smallest components train;  keep "nothing": the r largest
    B = U·√S/√s, A = √S·Vᵀ·C⁻¹/√s, W - s·B·A takes the place of W;  then as LoRA, s = α/r

State: AdamW's for A and B, r(in + out) scalars a matrix.
Departures from the paper: X is of this task's training inputs for both; the paper takes those of
the knowledge to be kept for "knowledge". d starts at 0.01 and doubles until ‖C·C⁻¹ - I‖ < 0.05, as
in the authors' code. That code divides inputs by their largest value first, which leaves B·A as it
is and makes B smaller and A larger. Decomposition in float64.
"""

import torch

from harness import surgery
from submissions.peft import head_only, lora, olora

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-4, 1e-2]},
    "rank": {"int": [1, 16], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
    "keep": {"choice": ["nothing", "knowledge"]},
    "examples": 32,
}


def inverted(x):
    """Return the damped covariance of inputs [tokens, in], and its inverse."""
    c, damp = x.T @ x / len(x), 0.01
    while True:
        damped = c + damp * c.diagonal().mean() * torch.eye(len(c)).to(c)
        inverse = torch.linalg.inv(damped)
        if (damped @ inverse - torch.eye(len(c)).to(c)).norm() < 0.05:
            return damped, inverse
        damp *= 2


def split(weight, x, rank, scale, keep):
    """Return B and A."""
    c, inverse = inverted(x.double())
    u, s, v = torch.linalg.svd(weight.detach().double() @ c, full_matrices=False)
    part = slice(len(s) - rank, None) if keep == "knowledge" else slice(rank)
    root = (s[part] / scale).sqrt()
    return u[:, part] * root, root[:, None] * (v[part] @ inverse)


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lora.size)
    scale = hp.alpha / rank
    inputs = surgery.calibrated(model, task.calibration(hp.examples))
    parts = {m: split(m.weight, x, rank, scale, hp.keep) for m, x in inputs}
    surgery.replace(model, lambda linear: olora.Begun(linear, scale, *parts[linear]))
