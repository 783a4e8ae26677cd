"""A small network on categorical fields."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn


class Clicks(nn.Module):
    """Fields [B, fields], a category each, to the logit of a click [B]: embeddings, perceptron.

    Args:
        config: fields, categories (of each field), width (of an embedding), hidden (units).
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.table = nn.Embedding(config.fields * config.categories, config.width)
        nn.init.normal_(self.table.weight, std=0.1)
        first = torch.arange(config.fields) * config.categories
        self.register_buffer("first", first)
        self.up = nn.Linear(config.fields * config.width, config.hidden)
        self.readout = nn.Linear(config.hidden, 1)
        self.readout.role = "readout"

    def forward(self, fields: Tensor) -> Tensor:
        x = self.table(fields.long() + self.first).flatten(1)
        return self.readout(torch.relu(self.up(x)))[:, 0]
