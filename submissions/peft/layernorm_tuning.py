"""LayerNorm tuning: only gains and shifts of the norms train.

Zhao et al., "Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning",
arXiv 2312.11420.

    γ, β ← AdamW for every norm, and for the head; the rest is frozen

State: AdamW's for the norms.
Departures from the paper: the model is a plain language model.
"""

from torch import nn

from harness import surgery
from harness.errors import UserError
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {**head_only.SPACE, "base_lr": {"log": [1e-3, 5e-2]}}


def adapt(model, task, hp):
    surgery.freeze(model)
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm)]
    if not norms:
        raise UserError("layernorm_tuning found no norm in this model")
    for norm in norms:
        norm.requires_grad_(True)
