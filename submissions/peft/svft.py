"""SVFT: a sparse matrix between the singular vectors of each frozen matrix.

Lingam et al., "SVFT: Parameter-Efficient Fine-Tuning with Singular Vectors", arXiv 2405.19597.

    W = U·Σ·Vᵀ;  W' = W + U·M·Vᵀ,  M zero at the start, trained at fixed places alone
    pattern "banded": places at most `band` off the diagonal; with `band` 0 the diagonal ("plain")
    pattern "random": the diagonal, and as many others as the band has, drawn

State: AdamW's for the trained entries of M: k + band·(2k - band - 1) scalars, k the shorter side.
Departures from the paper: U and V have k vectors; the pattern by the alignment of singular vectors
("top-k") is left out.
"""

import torch
from torch import nn

from harness import surgery
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-3, 1e-1]},
    "band": {"int": [0, 16], "default": 2},
    # Largest share of all parameters that may train: an upper bound on the band.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "pattern": {"choice": ["banded", "random"], "tuned": False},
}
VARIANTS = {"svft_plain": {"band": 0}, "svft_random": {"pattern": "random"}}


def trained(side, band):
    """Return how many entries train of M [side, side]."""
    band = min(band, side - 1)
    return side + band * (2 * side - band - 1)


def chosen(side, band, pattern, generator):
    """Return the places of M [side, side] that train, in order."""
    i = torch.arange(side)
    off = (i[:, None] - i).abs().flatten()
    if pattern == "banded":
        return (off <= band).nonzero()[:, 0]
    others = (off > 0).nonzero()[:, 0]
    drawn = torch.randperm(len(others), generator=generator)[: trained(side, band) - side]
    return torch.cat([(off == 0).nonzero()[:, 0], others[drawn]]).sort().values


class SVFT(surgery.Adapted):
    def __init__(self, linear, places):
        super().__init__(linear)
        u, _, v = torch.linalg.svd(self.weight.detach(), full_matrices=False)
        self.register_buffer("U", u.contiguous())
        self.register_buffer("V", v.contiguous())
        self.register_buffer("places", places.to(self.weight.device))
        self.m = nn.Parameter(self.weight.new_zeros(len(places)))

    def dense(self):
        side = len(self.V)
        middle = self.m.new_zeros(side * side).index_add(0, self.places, self.m)
        return self.weight + self.U @ middle.view(side, side) @ self.V


def adapt(model, task, hp):
    surgery.freeze(model)
    band = surgery.fitting(
        model, hp.band + 1, hp.share, lambda out, inputs, r: trained(min(out, inputs), r - 1)
    )

    def begun(linear):
        places = chosen(min(linear.weight.shape), band - 1, hp.pattern, task.rng)
        return SVFT(linear, places)

    surgery.replace(model, begun)
