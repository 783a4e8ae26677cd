"""BitFit: only biases train.

Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models", arXiv 2106.10199.

    b ← AdamW for every bias b (of linear maps and norms) and for the head; the rest is frozen

State: AdamW's for the biases.
Departures from the paper: none.
"""

from harness import roles, surgery
from harness.errors import UserError
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {**head_only.SPACE, "base_lr": {"log": [1e-3, 5e-2]}}


def adapt(model, task, hp):
    surgery.freeze(model)
    kinds, found = roles.of(model), 0
    for name, p in model.named_parameters():
        if kinds[name].kind == "bias":
            p.requires_grad_(True)
            found += 1
    if not found:
        raise UserError("bitfit found no bias in this model")
