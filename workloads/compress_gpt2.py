"""Compression of a trained language model: zeros or few bits in its matrices, near the dense loss.

    mini    0.34 M parameters, pretrained on the State of the Union addresses

The start is the checkpoint of ft_gpt2, the data what it was trained on, loss and metric those of
the gpt2 workload. The goal is the loss under a constraint that the referee measures on the
handed-over weights at the very evaluation that counts (harness/constraints.py): sparsity, the 2:4
pattern or bits of the hidden matrices (attention and perceptron), which hold 58 % of the
parameters.
"""

from types import SimpleNamespace

from torch import Tensor

from workloads import gpt2
from workloads.gpt2 import batch, data, inputs, loss, losses, metric, model, sample, score, size
from workloads.pretrain.checkpoint import checkpoint

__all__ = [
    "batch",
    "data",
    "inputs",
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
    return checkpoint(config, gpt2)
