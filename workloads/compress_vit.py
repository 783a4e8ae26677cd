"""Compression of a trained vision transformer: zeros or few bits in its matrices, near dense.

    mini    0.2 M parameters, pretrained on 4,000 MNIST digits

The start is the checkpoint of ft_vit, the data what it was trained on, loss and metric those of the
vit workload. The goal is the accuracy under a constraint that the referee measures on the
handed-over weights at the very evaluation that counts (harness/constraints.py): sparsity, the 2:4
pattern or bits of the hidden matrices (attention and perceptron), which hold 96 % of the
parameters.
"""

from types import SimpleNamespace

from torch import Tensor

from workloads import vit
from workloads.pretrain.checkpoint import checkpoint
from workloads.vit import (
    batch,
    data,
    inputs,
    logits,
    loss,
    losses,
    metric,
    model,
    sample,
    score,
    size,
)

__all__ = [
    "batch",
    "data",
    "inputs",
    "logits",
    "loss",
    "losses",
    "metric",
    "model",
    "pretrained",
    "sample",
    "score",
    "size",
]


def pretrained(config: SimpleNamespace) -> dict[str, Tensor]:
    """The weights that training starts from, by name."""
    return checkpoint(config, vit)
