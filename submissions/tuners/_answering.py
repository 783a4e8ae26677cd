"""A linear map whose weights answer to hyperparameters, for self_tuning.

MacKay et al., arXiv 1903.03088, section 3.2.

    (W + diag(s_w)·V)x + b + s_b∘c,  (s_w, s_b) = U·(h − h₀)
"""

import torch
import torch.nn.functional as F
from torch import nn

from harness import surgery
from harness.errors import UserError

SMALL = 0.01


class Answering(surgery.Adapted):
    """A linear map whose weight and bias answer to log penalties."""

    def __init__(self, linear, count):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        if self.bias is None:
            raise UserError("self_tuning needs hidden maps with a bias")
        rows = self.weight.shape[0]
        self.V = nn.Parameter(self.weight.detach().clone())
        self.c = nn.Parameter(self.bias.detach().clone())
        self.U = nn.Parameter(SMALL * torch.randn(2 * rows, count).to(self.weight))
        # h − h₀; the algorithm sets it.
        self.moved = self.weight.new_zeros(count)

    def scales(self):
        return (self.U @ self.moved).chunk(2)

    def dense(self):
        return self.weight + self.scales()[0][:, None] * self.V

    def dense_bias(self):
        return self.bias + self.scales()[1] * self.c

    def forward(self, x):
        return F.linear(x, self.dense(), self.dense_bias())
