"""Linear maps that are a sum of parts: a matrix, two factors of low rank, and a sparse rest."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import surgery


class Parts(nn.Module):
    """What is added to a matrix [out, in]: left·right + rest, all zero at first.

    These are buffers: no optimizer sees them. A method that stores a matrix in parts writes them.
    """

    role = "other"

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        out, inputs = weight.shape
        self.register_buffer("left", weight.new_zeros(out, rank))
        self.register_buffer("right", weight.new_zeros(rank, inputs))
        self.register_buffer("rest", weight.new_zeros(out, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.right), self.left) + F.linear(x, self.rest)


class Sum(nn.Linear):
    """A linear map whose matrix is its weight plus its parts."""

    def __init__(self, linear: nn.Linear, rank: int):
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self.parts = Parts(linear.weight.detach(), rank)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.parts(x)


def in_parts(model: nn.Module, rank: int) -> nn.Module:
    """Return the model with every hidden linear map a sum of parts."""
    surgery.replace(model, lambda linear: Sum(linear, rank))
    return model
