"""LoRA-GA: LoRA whose first steps follow the singular vectors of the first gradient.

Wang, Yu, Li, "LoRA-GA: Low-Rank Adaptation with Gradient Approximation", arXiv 2407.05000.

    G = ∇W of the first batches = U·S·Vᵀ;  B = c·U_·(r+1)..2r, A = c·V_·1..rᵀ, c = out^(1/4)/√γ
    W - s·B·A takes the place of W;  then as LoRA, s = α/√r

State: AdamW's for A and B, r(in + out) scalars a matrix.
Departures from the paper: an exact decomposition, not a random one; r is at most half of a matrix's
smaller side.
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
    "gamma": {"log": [4.0, 256.0], "default": 16.0},
    "batches": 1,
}


def adapt(model, task, hp):
    surgery.freeze(model)
    found = surgery.weights(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lora.size)
    rank = min([rank, *(min(w.shape) // 2 for w in found)])
    for w in found:
        w.requires_grad_(True)
    for i in range(hp.batches):
        task.forward_backward(task.next_batch(), accumulate=i > 0)

    def begun(linear):
        u, _, v = torch.linalg.svd(linear.weight.grad, full_matrices=False)
        linear.weight.grad, c = None, len(u) ** 0.25 / hp.gamma**0.5
        return olora.Begun(linear, hp.alpha / rank**0.5, c * u[:, rank : 2 * rank], c * v[:rank])

    surgery.replace(model, begun)
