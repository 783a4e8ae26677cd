"""RIA: pruning by a weight's share of its row and of its column, times the input's size.

Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models",
ICLR 2024.

    score_ij = (|W_ij|/Σ_k|W_kj| + |W_ij|/Σ_k|W_ik|)·(‖X_j‖₂)^a, a = ½
    the smallest of every row go, block after block, as in Wanda

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: no permutation of input channels. AdamW trains the weights that stay.
"""

from harness import surgery
from submissions.sparse import magnitude, wanda

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {**wanda.SPACE, "power": {"linear": [0.0, 1.0], "default": 0.5}}


def adapt(model, task, hp):
    for module, x in surgery.calibrated(model, task.calibration(hp.examples)):
        size = module.weight.detach().abs()
        share = size / size.sum(0) + size / size.sum(1, keepdim=True)
        scores = [share * x.norm(dim=0) ** hp.power]
        task.masks.set(module.weight, magnitude.kept(scores, hp.sparsity, "row", hp.two_four)[0])
