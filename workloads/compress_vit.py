"""Compression of a trained vision transformer: sparse or low-bit matrices near the dense loss.

    mini    0.2 M parameters, pretrained on 24,000 garments of Fashion-MNIST

Training starts from a checkpoint of workloads/pretrain/checkpoint.py, pinned by hash, and uses the
data of its pretraining: the part of Fashion-MNIST (MIT) that is shipped. Loss and metric are those
of the vit workload.

The goal is a held-out cross-entropy under a constraint: zeros, patterns, bits or stored bits of the
hidden matrices (attention and perceptron, 96 % of the parameters), the size or the operations
without dead heads and neurons, rounded inputs, or a loss of half the network as well. The referee
measures it on the weights of each evaluation, and all conditions must hold at the same one.

Goal at mini: the loss of the tuned reference (magnitude, wanda or int8_ste) raced over three
quarters of the budget, rule `share` of conf/targets.yaml. Budget: `horizon` reference steps.
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
    """Return the weights that training starts from, by name."""
    return checkpoint(config, vit)
