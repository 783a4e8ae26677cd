"""Random pruning, the null of its track: the same share of every matrix, drawn at random.

Frankle et al., "Pruning Neural Networks at Initialization: Why are We Missing the Mark?",
arXiv 2009.08576, has it as the baseline to beat.

    prune ⌈s·n⌉ of a matrix's n weights at random, then train the rest

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: none.
"""

import torch

from harness import surgery
from submissions.sparse import magnitude

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    "base_lr": {"log": [3e-4, 1e-2]},
    "base_wd": 0.0,
    "sparsity": {"linear": [0.0, 0.99], "default": 0.8, "goal": "sparsity"},
    "two_four": {"choice": [False, True], "goal": "two_four"},
}


def adapt(model, task, hp):
    found = surgery.weights(model)
    scores = [torch.rand(w.shape, generator=task.rng).to(w) for w in found]
    magnitude.prune(task, scores, hp, "layer")
