"""Wanda: pruning of each row's smallest weights by magnitude times the input's norm.

Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", arXiv 2306.11695.

    score_ij = |W_ij|·‖X_j‖₂ over calibration tokens; prune the smallest of every row
    block after block: a block's inputs come from the pruned blocks before it

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: AdamW trains the weights that stay; the paper stops after pruning.
"""

from harness import surgery
from submissions.sparse import magnitude, random_mask

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {**random_mask.SPACE, "examples": 32}


def score(weight, x):
    return weight.detach().abs() * x.norm(dim=0)


def adapt(model, task, hp):
    for module, x in surgery.calibrated(model, task.calibration(hp.examples)):
        scores = [score(module.weight, x)]
        task.masks.set(module.weight, magnitude.kept(scores, hp.sparsity, "row", hp.two_four)[0])
