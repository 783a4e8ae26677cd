"""QLoRA: LoRA on a frozen base that is rounded to the quantiles of a normal distribution (NF4).

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314.

    a = max |w| of 64 inputs of a row;  Q = a·(nearest level of w/a), levels as in
    submissions/quantized/nf4.py;  W' = Q + s·B·A with Q frozen;  s = α/r
    s·B and A are read in 16 bits, with gradients straight through the rounding
    handed over: Q and both factors as parts where the workload stores parts, else their sum
    under a bound on stored bits: the most bits of Q, up to 4, that leave room for one rank; then as
    many ranks as fit

State: AdamW's for A and B, r(in + out) scalars a matrix.
Departures from the paper: Q is kept in float32 while it trains, so no training memory is saved.
Scales of 16 bits are not rounded a second time, factors are in float16, AdamW is not paged. A row
that is no multiple of 64 long is one group.
"""

import torch
import torch.nn.functional as F

from harness import ops, surgery
from harness.errors import UserError
from submissions.peft import head_only, lora
from submissions.quantized import nf4

BASE = "adamw"
TRACKS = ["finetune", "compress"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-3, 5e-2]},
    "rank": {"int": [1, 16], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
    # Bits a weight of all parts; 32 is no bound.
    "stored": {"linear": [2.5, 32.0], "default": 32.0, "goal": "stored_bits"},
}
MOST, LEAST, HALF = 4, 2, 16


def stored(weights, bits, rank):
    """Return the bits a weight of codes, scales, levels and two factors."""
    total = 0
    for w in weights:
        groups = len(nf4.grouped(w))
        total += bits * w.numel() + HALF * (groups + 2**bits + lora.size(*w.shape, rank))
    return total / sum(w.numel() for w in weights)


def fitting(weights, bound, rank):
    """Return the bits of a code and the rank that the bound allows."""
    for bits in range(MOST, LEAST - 1, -1):
        fits = [r for r in range(1, rank + 1) if stored(weights, bits, r) <= bound]
        if fits:
            return bits, fits[-1]
    return LEAST, 1


class Quantised(lora.LoRA):
    def __init__(self, linear, rank, scale, bits):
        super().__init__(linear, rank, scale)
        groups = nf4.grouped(self.weight.detach())
        self.weight.data.copy_(nf4.normal_float(groups, bits).view_as(self.weight))

    def factors(self):
        """Return s·B and A in 16 bits."""
        both = self.scale * self.B, self.A
        return [ops.straight_through(v, v.to(torch.float16).to(v)) for v in both]

    def dense(self):
        """Return the matrix that is handed over; of a sum of parts it is Q."""
        if hasattr(self, surgery.PARTS):
            return self.weight
        left, right = self.factors()
        return self.weight + left @ right

    def forward(self, x):
        left, right = self.factors()
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, right), left)


def adapt(model, task, hp):
    surgery.freeze(model)
    maps = surgery.matrices(model).values()
    rank = surgery.fitting(model, hp.rank, hp.share, lora.size)
    in_parts = [m.parts.left.shape[1] for m in maps if hasattr(m, surgery.PARTS)]
    if hp.stored < 32 and not in_parts:
        raise UserError(
            "this workload stores a matrix as one part, and qlora needs two",
            "a model with parts",
            "workload=compress_parts",
        )
    bits, rank = fitting(surgery.weights(model), hp.stored, min([rank, *in_parts]))
    surgery.replace(model, lambda linear: Quantised(linear, rank, hp.alpha / rank, bits))


@torch.no_grad()
def export(model):
    for m in surgery.matrices(model).values():
        if hasattr(m, surgery.PARTS):
            left, right = m.factors()
            m.parts.left[:, : left.shape[1]], m.parts.right[: len(right)] = left, right
    return surgery.export(model)
