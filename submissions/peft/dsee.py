"""DSEE: a low-rank product and a few single entries train beside every frozen matrix.

Chen et al., "DSEE: Dually Sparsity-embedded Efficient Tuning of Pre-trained Language Models",
arXiv 2111.00160.

    W' = W + s·(B·A + S),  s = α/r;  S is zero but at `places` fixed entries; these start at zero
    the places: R = 0, then `rounds` times
        L = U_r·Σ_r·V_rᵀ of W - R;  R = the `places` largest |entries| of W - L, and zero elsewhere

State: AdamW's for A, B and the entries, r(in + out) + `places` scalars a matrix.
Departures from the paper: the split has exact singular values and a fixed number of entries. The
authors' code adds five ranks at a time by a QR decomposition and cuts by a threshold. Every hidden
matrix has an adapter. The second phase, which prunes W and tunes again, is `dsee_pruned`.
"""

import torch
import torch.nn.functional as F
from torch import nn

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
    "places": {"int": [16, 128], "default": 64},
    "rounds": 20,
}


class LowRankSparse(lora.LoRA):
    """LoRA and single entries, which are multiplied by `factor`."""

    def __init__(self, linear, rank, scale, places, factor):
        super().__init__(linear, rank, scale)
        self.register_buffer("places", places)
        self.factor, self.phi = factor, nn.Parameter(self.weight.new_zeros(len(places)))

    def dense(self):
        flat = super().dense().flatten()
        return flat.index_add(0, self.places, self.factor * self.phi).view_as(self.weight)

    def forward(self, x):
        return F.linear(x, self.dense(), self.bias)


def rest(weight, rank, count, rounds):
    """Return the places, in order, of the sparse rest of a matrix beside one of low rank."""
    weight = weight.detach().double()
    kept = torch.zeros_like(weight).flatten()
    for _ in range(rounds):
        u, s, v = torch.linalg.svd(weight - kept.view_as(weight), full_matrices=False)
        gap = (weight - (u[:, :rank] * s[:rank]) @ v[:rank]).flatten()
        places = gap.abs().topk(count).indices
        kept = torch.zeros_like(gap).index_copy(0, places, gap[places])
    return places.sort().values


def adapt(model, task, hp):
    surgery.freeze(model)

    def count(out, inputs):
        return min(hp.places, out * inputs)

    def size(out, inputs, rank):
        return lora.size(out, inputs, rank) + count(out, inputs)

    rank = surgery.fitting(model, hp.rank, hp.share, size)

    def begun(linear):
        places = rest(linear.weight, rank, count(*linear.weight.shape), hp.rounds)
        return LowRankSparse(linear, rank, hp.alpha / rank, places, hp.alpha / rank)

    surgery.replace(model, begun)
