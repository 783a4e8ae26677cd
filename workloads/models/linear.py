"""A linear score of an input, as logistic regression has it."""

import torch
from torch import Tensor, nn


class LinearScore(nn.Module):
    """x·w + b, float64. The role of w is "readout".

    Args:
        features: length of an input.
        ridge: factor of ‖(w, b)‖²/2 in the loss.
        lasso: factor of ‖w‖₁ in the loss.
        init_scale: standard deviation of the entries of w at the start; b starts at 0.
        bias: without it there is no b.
    """

    role = "readout"

    def __init__(
        self,
        features: int,
        ridge: float,
        lasso: float = 0.0,
        init_scale: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        self.weight = nn.Parameter(init_scale * torch.randn(1, features, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(1, dtype=torch.float64)) if bias else None
        self.ridge, self.lasso = ridge, lasso

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores [B] of inputs [B, features]."""
        scores = inputs @ self.weight[0]
        return scores if self.bias is None else scores + self.bias

    def squares(self) -> Tensor:
        """Return ridge·‖(w, b)‖²/2."""
        return self.ridge / 2 * torch.stack([p.square().sum() for p in self.parameters()]).sum()
