"""A low-rank matrix as a product of factors: X Xᵀ, or L Rᵀ."""

import torch
from torch import Tensor, nn


class Factors(nn.Module):
    """One symmetric factor, or a left and a right one, float64, entries N(0, scale²/rows).

    The role of the parameters is "factor". Factors of one product are adjacent among the model's
    parameters, left before right; a single one is its own partner.

    Args:
        rows: of the matrix; columns: of the matrix, None if it is symmetric.
        rank: columns of every factor.
        scale: standard deviation of a factor's entries, times the square root of its rows.
    """

    role = "factor"

    def __init__(self, rows: int, columns: int | None, rank: int, scale: float):
        super().__init__()
        sides = (rows,) if columns is None else (rows, columns)
        drawn = [torch.randn(n, rank, dtype=torch.float64) * (scale / n**0.5) for n in sides]
        self.left = nn.Parameter(drawn[0])
        self.right = nn.Parameter(drawn[1]) if columns is not None else None

    def forward(self) -> Tensor:
        """Return the matrix, [rows, columns]."""
        return self.left @ (self.left if self.right is None else self.right).T
