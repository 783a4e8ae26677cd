"""Random pruning, the null of its track: the same share of every matrix, drawn at random.

Frankle et al., "Pruning Neural Networks at Initialization: Why are We Missing the Mark?",
arXiv 2009.08576, has it as the baseline to beat.

    prune ⌈s·n⌉ of a matrix's n weights at random, train the rest on

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
    "sparsity": {"choice": [0.8, 0.5, 0.9]},
    "pattern": {"choice": ["none", "2:4"]},
}
BADGE = "formula"


def adapt(model, task, hp):
    found = surgery.weights(model)
    scores = [torch.rand(w.shape, generator=task.rng).to(w) for w in found]
    magnitude.prune(task, scores, hp, "layer")
