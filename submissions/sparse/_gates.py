"""Gates with hard concrete noise on the input channels of a matrix, for methods that learn them.

Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", arXiv 1712.01312.
"""

import math

import torch
from torch import nn

from harness import surgery

BETA, LOW, HIGH = 2 / 3, -0.1, 1.1


def stretched(x):
    return ((HIGH - LOW) * x.sigmoid() + LOW).clamp(0, 1)


def chance(a):
    """Return P(z > 0) of gates."""
    return (a - BETA * math.log(-LOW / HIGH)).sigmoid()


class Gated(surgery.Adapted):
    """A matrix whose input channels are multiplied by gates, `group` channels by each."""

    def __init__(self, linear, group, start):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        self.group = group
        count = linear.weight.shape[1] // group
        self.a = nn.Parameter(linear.weight.new_full((count,), start))
        self.register_buffer("z", torch.ones_like(self.a))
        self.register_buffer("drawn", torch.zeros_like(self.a))
        self.noisy = False

    def dense(self):
        z = stretched((self.drawn + self.a) / BETA) if self.noisy else self.z
        return self.weight * z.repeat_interleave(self.group)
