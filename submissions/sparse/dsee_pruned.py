"""DSEE's second phase: beside a pruned matrix a low-rank product and a few single entries train.

Chen et al., "DSEE: Dually Sparsity-embedded Efficient Tuning of Pre-trained Language Models",
arXiv 2111.00160.

    W ← W ⊙ M, M the largest |w| of all matrices;  W' = W + s·(B·A + S), as dsee
    W, s·B, A and s·S have 16 bits each, with gradients straight through the rounding; they are
    handed over as parts
    M keeps as many weights as a bound on stored bits leaves beside the factors and the entries

State: AdamW's for A, B and the entries, r(in + out) + `places` scalars a matrix.
Departures from the paper: no first phase of training, because the pretrained weights are of the
same task; numbers of 16 bits.
"""

import torch
import torch.nn.functional as F

from harness import ops, surgery
from harness.errors import UserError
from submissions.peft import dsee, head_only, lora
from submissions.sparse import magnitude

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-3, 5e-2]},
    "stored": {"linear": [2.5, 16.0], "default": 4.6, "goal": "stored_bits"},
    "rank": {"choice": [2, 1, 4]},
    "alpha": 8.0,
    "places": {"choice": [16, 32, 64]},
    "rounds": 20,
}
HALF, MASK = 16, 1  # bits of a number, and of a weight's place in the mask


def half(value):
    """Return the values in 16 bits, with their gradient."""
    return ops.straight_through(value, value.to(torch.float16).to(value))


class Pruned(dsee.LowRankSparse):
    def parted(self):
        """Return s·B, A and the entries of s·S."""
        return half(self.scale * self.B), half(self.A), half(self.factor * self.phi)

    def dense(self):
        return self.weight

    def forward(self, x):
        left, right, entries = self.parted()
        merged = (self.weight + left @ right).flatten().index_add(0, self.places, entries)
        return F.linear(x, merged.view_as(self.weight), self.bias)


def beside(weight, rank, places):
    """Return the bits that factors and entries take: numbers, columns, and where rows begin."""
    out, inputs = weight.shape
    entries = places * (HALF + (inputs - 1).bit_length()) + out * places.bit_length()
    return HALF * lora.size(out, inputs, rank) + entries


def adapt(model, task, hp):
    surgery.freeze(model)
    maps = surgery.matrices(model).values()
    if not all(hasattr(m, surgery.PARTS) for m in maps):
        raise UserError(
            "this workload stores a matrix as one part, and dsee_pruned needs three",
            "a model with parts",
            "workload=compress_parts",
        )
    weights = surgery.weights(model)
    rank = min([hp.rank, *(m.parts.left.shape[1] for m in maps)])
    more = sum(beside(w, rank, hp.places) for w in weights) / sum(w.numel() for w in weights)
    kept = min(1.0, (hp.stored - MASK - more) / HALF)
    if kept <= 0:
        needed = f"stored_bits above {MASK + more:.2f}, or a smaller rank"
        raise UserError(f"{hp.stored:g} stored bits leave nothing for the weights", needed)
    masks = magnitude.kept([w.detach().abs() for w in weights], 1 - kept)
    scale = hp.alpha / rank

    def begun(linear, mask):
        places = dsee.rest(linear.weight, rank, hp.places, hp.rounds)
        linear.weight.data.copy_(half(linear.weight.data * mask))
        return Pruned(linear, rank, scale, places, scale)

    each = dict(zip(maps, masks, strict=True))
    surgery.replace(model, lambda linear: begun(linear, each[linear]))


@torch.no_grad()
def export(model):
    for m in surgery.matrices(model).values():
        left, right, entries = m.parted()
        m.parts.left[:, : left.shape[1]], m.parts.right[: len(right)] = left, right
        m.parts.rest.view(-1)[m.places] = entries
    return surgery.export(model)
