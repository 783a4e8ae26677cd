"""EVA: LoRA that starts in the main directions of the inputs, with ranks shared out by variance.

Paischer et al., "Parameter Efficient Fine-tuning via Explained Variance Adaptation",
arXiv 2410.07170.

    X, a matrix's inputs in calibration = U·S·Vᵀ;  A = V_·1..kᵀ, B = 0;  then as LoRA, s = α/r
    the r·n directions of all n matrices with the largest share S_j²/ΣS² of their matrix's variance
    are kept, at most ρ·r of a matrix; one without any is frozen

State: AdamW's for A and B: k(in + out) scalars a matrix.
Departures from the paper: one exact decomposition of `examples` inputs in place of one batch after
another until it settles. Directions are kept while they fit into the goal's share of parameters.
"""

import torch

from harness import surgery
from submissions.peft import head_only, lora

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-3, 5e-2]},
    "rank": {"int": [1, 16], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
    # ρ
    "spread": {"choice": [2.0, 1.0]},
    "examples": 32,
}


def ranks(variances, sizes, rank, spread, allowed):
    """Return how many directions each matrix keeps.

    Args:
        variances: for each matrix its directions' shares of the variance, descending.
        sizes: the scalars that a direction trains; allowed: of all together.
    """
    order = [(-float(v), i) for i, each in enumerate(variances) for v in each[: int(spread * rank)]]
    kept = [0] * len(sizes)
    for _, i in sorted(order):
        if sum(kept) < rank * len(sizes) and allowed >= sizes[i]:
            kept[i], allowed = kept[i] + 1, allowed - sizes[i]
    return kept


def adapt(model, task, hp):
    allowed = hp.share * sum(p.numel() for p in model.parameters())
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lora.size)
    frames = {}
    for m, x in surgery.calibrated(model, task.calibration(hp.examples)):
        frames[m] = torch.linalg.svd(x, full_matrices=False)[1:]
    variances = [s.square() / s.square().sum() for s, _ in frames.values()]
    sizes = [sum(m.weight.shape) for m in frames]
    kept = dict(zip(frames, ranks(variances, sizes, rank, hp.spread, allowed), strict=True))

    def begun(linear):
        if not kept[linear]:
            return linear
        module = lora.LoRA(linear, kept[linear], hp.alpha / rank)
        module.A.data.copy_(frames[linear][1][: kept[linear]])
        return module

    surgery.replace(model, begun)
