"""A two-layer ReLU network of one output, without biases."""

import torch
from torch import Tensor, nn


class TwoLayer(nn.Module):
    """Σ_j a_j·max(0, u_jᵀx), float64; entries start as N(0, 1/fan-in).

    Args:
        features: length of an input.
        width: number of units.
        ridge: factor of (‖U‖² + ‖a‖²)/2 in the loss.
    """

    def __init__(self, features: int, width: int, ridge: float):
        super().__init__()
        self.hidden = nn.Linear(features, width, bias=False, dtype=torch.float64)
        self.readout = nn.Linear(width, 1, bias=False, dtype=torch.float64)
        self.readout.role = "readout"  # type: ignore[assignment]
        for layer in (self.hidden, self.readout):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        self.ridge = ridge

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs [B] of inputs [B, features]."""
        return self.readout(self.hidden(inputs).relu())[:, 0]

    def squares(self) -> Tensor:
        """Return ridge·(‖U‖² + ‖a‖²)/2."""
        weights = (self.hidden.weight, self.readout.weight)
        return self.ridge / 2 * torch.stack([w.square().sum() for w in weights]).sum()
