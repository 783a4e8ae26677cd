"""Full fine-tuning: AdamW on every parameter, the reference of its track.

Loshchilov, Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101.

    every parameter trains; the head has the learning rate that all methods of this family use

State: AdamW's, two words per parameter.
Departures from the paper: none.
"""

from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {**head_only.SPACE, "base_lr": {"log": [3e-4, 1e-2]}}


def adapt(model, task, hp):
    model.requires_grad_(True)
