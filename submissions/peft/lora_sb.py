"""LoRA-SB: LoRA-XS in the singular vectors of full fine-tuning's first step.

Ponkshe et al., "Initialization using Update Approximation is a Silver Bullet for Extremely
Efficient Low-Rank Fine-Tuning", arXiv 2411.19557.

    M = -η·sign(Σ ∇W over `examples` examples) = U·S·Vᵀ;  W' = W + B·R·A
    B = U_r and A = V_rᵀ are frozen; R = S_r at the start, so B·R·A is M's best approximation

State: AdamW's for R: r² scalars a matrix.
Departures from the paper: an exact decomposition, not svd_lowrank. η is a hyperparameter; the
authors' code takes the learning rate over the warm-up steps. The sum is over whole batches, so
`examples` is rounded up.
"""

import torch

from harness import surgery
from submissions.peft import head_only, lora_xs

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [3e-4, 3e-2]},
    "rank": {"int": [2, 32], "default": 14},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "first": {"log": [1e-5, 1e-3]},  # η
    "examples": 60,
}


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lambda out, inputs, r: r * r)
    for linear in surgery.matrices(model).values():
        linear.weight.requires_grad_(True)
    done = 0
    while done < hp.examples:
        batch = task.next_batch()
        task.forward_backward(batch, accumulate=done > 0)
        done += task.batch_size

    def framed(linear):
        u, s, v = torch.linalg.svd(-hp.first * linear.weight.grad.sign(), full_matrices=False)
        linear.weight.grad = None
        r = torch.diag(s[:rank])
        return lora_xs.Framed(linear, 1.0, u[:, :rank], r, v[:rank])

    surgery.replace(model, framed)
