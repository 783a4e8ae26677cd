"""Microscaling formats: 32 inputs share a power of two, each has a small float or integer.

Rouhani et al., "Microscaling Data Formats for Deep Learning", arXiv 2310.10537.

    X = 2^(⌊log2 max|w|⌋ - e),  e the exponent of the element's largest value (2 for E2M1, 0 for
    integers);  w ← X·(w/X rounded to the element, to the nearest, ties to even; clipped)
    E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives
    integers of b bits: k/2^(b-2), |k| < 2^(b-1)

State: AdamW's two words per parameter, of the unrounded weights.
Departures from the paper: weights alone; gradients pass straight through the rounding. A row that
is no multiple of 32 long is one group. b follows from the goal.
"""

import torch

from harness import ops, surgery
from submissions.quantized import nf4

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {**nf4.SPACE, "element": {"choice": ["integer", "e2m1"], "tuned": False}}
VARIANTS = {"mxfp4": {"element": "e2m1"}, "mxint": {"element": "integer"}}
BLOCK, EXPONENT = 32, 8


def e2m1(x):
    """Return the nearest values of E2M1; of two as near, that with an even mantissa."""
    size = x.abs().clamp(max=6.0)
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0)).to(x)
    return x.sign() * (size / step).round() * step


def integer(x, bits):
    unit = 2.0 ** (bits - 2)
    return (x * unit).round().clamp(1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) / unit


def rounded(groups, element, bits):
    """Return rows of one group each, rounded, [groups, inputs of a group]."""
    largest = groups.abs().amax(1, keepdim=True).clamp(min=torch.finfo(groups.dtype).tiny)
    # The mantissa of frexp is in [1/2, 1).
    power = torch.frexp(largest).exponent - 1 - (2 if element == "e2m1" else 0)
    scaled = torch.ldexp(groups, -power)
    return torch.ldexp(e2m1(scaled) if element == "e2m1" else integer(scaled, bits), power)


class Microscaled(surgery.Adapted):
    def __init__(self, linear, element, bits):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        self.element, self.bits = element, bits

    def dense(self):
        size = BLOCK if self.weight.shape[1] % BLOCK == 0 else self.weight.shape[1]
        groups = self.weight.detach().reshape(-1, size)
        groups = rounded(groups, self.element, self.bits)
        return ops.straight_through(self.weight, groups.view_as(self.weight))


def adapt(model, task, hp):
    bits = int(hp.stored - EXPONENT / BLOCK)
    surgery.replace(model, lambda linear: Microscaled(linear, hp.element, bits))
