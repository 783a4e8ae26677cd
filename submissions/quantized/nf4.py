"""NF4: weights on the quantiles of a normal distribution, a scale for 64 inputs; trained through.

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314.

    levels of b bits: Φ⁻¹ at 2^(b-1) even places from q down to 1/2, the last left out, -Φ⁻¹ at
    2^(b-1) - 1 such places, and 0; over the largest.  q = 1 - (2^-b + 1/(2^b - 1))/4
    a = max |w| of 64 inputs of a row;  w ← a·(nearest level of w/a)

State: AdamW's two words per parameter, of the unrounded weights.
Departures from the paper: the weights train, with gradients straight through the rounding, where
the paper freezes them under low-rank adapters; scales are not rounded again. A row that is no
multiple of 64 long is one group. b is 4 in the paper; here it follows from the goal.
"""

import torch

from harness import ops, surgery

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    "base_lr": {"log": [1e-4, 3e-3]},
    "base_wd": 0.0,
    "stored": {"linear": [2.5, 9.0], "default": 4.6, "goal": "stored_bits"},
}
GROUP = 64
# Bits a weight of the groups' scales, or of steps and offsets.
DESCRIPTION = 0.5


def bits_of(stored):
    """Return the bits of a code where `stored` may be spent on codes and their description."""
    return int(round(stored - DESCRIPTION, 6))


def grouped(weight):
    """Return the matrix as rows of one group each, [groups, inputs of a group]."""
    size = GROUP if weight.shape[1] % GROUP == 0 else weight.shape[1]
    return weight.reshape(-1, size)


def levels(bits, like):
    """Return the 2^bits levels in order, from -1 to 1."""
    half = 2 ** (bits - 1)
    last = 1 - (2.0**-bits + 1 / (2**bits - 1)) / 4
    up, down = (torch.linspace(last, 0.5, n, dtype=torch.float64)[:-1] for n in (half + 1, half))
    up, down = torch.special.ndtri(up), -torch.special.ndtri(down)
    return (torch.cat([up, down, up.new_zeros(1)]).sort().values / up.max()).to(like)


def nearest(values, levels):
    """Return the nearest level to each value."""
    return levels[torch.bucketize(values, (levels[1:] + levels[:-1]) / 2)]


class Rounded(surgery.Adapted):
    """A matrix that is read through a rounding; `rule(groups)` rounds rows of one group each."""

    def __init__(self, linear, rule):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        self.rule = rule

    def dense(self):
        groups = grouped(self.weight.detach())
        return ops.straight_through(self.weight, self.rule(groups).view_as(self.weight))


def normal_float(groups, bits):
    largest = groups.abs().amax(1, keepdim=True).clamp(min=torch.finfo(groups.dtype).tiny)
    return largest * nearest(groups / largest, levels(bits, groups))


def adapt(model, task, hp):
    bits = bits_of(hp.stored)
    surgery.replace(model, lambda linear: Rounded(linear, lambda g: normal_float(g, bits)))
