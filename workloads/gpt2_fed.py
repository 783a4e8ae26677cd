"""Language-model pretraining by four clients, each with the speeches of one era.

    mini    gpt2's text and model; the training windows in four parts of equal length, by year

The State of the Union addresses are in the order of their years, so a client has the words of
some decades, and the clients' texts differ as their times do. The held-out text is of all years.
Exchanges between clients are priced as in `fed`: one all-reduce of as many numbers as the model has
parameters costs `fed.exchange` reference steps, stated and not measured. A plain optimizer pays for
one in each step. Data, tokens and licences as in gpt2.

The goal is one that DiLoCo meets with all seeds. Budget: `horizon` reference steps, in which a
plain optimizer makes 250 steps.
"""

from types import SimpleNamespace

import torch
from torch import Tensor

from workloads import gpt2 as base
from workloads.fed import clients
from workloads.gpt2 import inputs, loss, losses, metric, model, sample, score, size, tokens

__all__ = [
    "clients",
    "inputs",
    "loss",
    "losses",
    "metric",
    "model",
    "sample",
    "score",
    "size",
    "tokens",
]


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return windows of the split, int32 [N, context + 1]; of "train" also each one's client."""
    made = base.data(config, split)
    if split == "val":
        return made
    count = len(made["windows"])
    return made | {"client": torch.arange(count) * config.fed.clients // count}


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return gpt2's batch and, to train on, client int64 [B]."""
    made = base.batch(data, index, config)
    return made | {"client": data["client"][index]} if "client" in data else made
