"""Arbitrary tuning: random tensors and random adapters, the null of its track.

Su et al., "Exploring the Impact of Model Scaling on Parameter-Efficient Tuning",
arXiv 2306.02320.

    half of the budget: LoRA pairs on matrices drawn at random
    the other half: the model's own parameter tensors, drawn at random
    the head trains too; everything else is frozen

State: AdamW's for the tensors drawn.
Departures from the paper: LoRA is the only kind of module; a tensor larger than the rest of the
budget is skipped.
"""

import torch

from harness import surgery
from submissions.peft import head_only, lora

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-3, 3e-2]},
    "share": {"log": [1e-3, 0.1], "default": 0.0099, "goal": "trainable"},  # of all parameters
    "rank": 1,
}


def adapt(model, task, hp):
    budget = int(hp.share * sum(p.numel() for p in model.parameters()))
    surgery.freeze(model)
    left, chosen = budget // 2, set()
    found = list(surgery.matrices(model).values())
    for i in torch.randperm(len(found), generator=task.rng).tolist():
        cost = hp.rank * sum(found[i].weight.shape)
        if cost <= left:
            left -= cost
            chosen.add(found[i])
    own, left = (
        [p for p in model.parameters() if not p.requires_grad],
        budget - (budget // 2 - left),
    )
    for i in torch.randperm(len(own), generator=task.rng).tolist():
        if own[i].numel() <= left and all(own[i] is not m.weight for m in chosen):
            left -= own[i].numel()
            own[i].requires_grad_(True)
    surgery.replace(model, lambda m: lora.LoRA(m, hp.rank, 8.0) if m in chosen else m)
