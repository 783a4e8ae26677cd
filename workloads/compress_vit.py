"""Compression of a trained vision transformer: sparse or low-bit matrices near dense accuracy.

    mini    0.2 M parameters, pretrained on 4,000 MNIST digits

Training starts from the checkpoint of ft_vit and uses the data of its pretraining: MNIST digits
(MNIST states no licence). Loss and metric are those of the vit workload.

The goal is an accuracy under a constraint: sparsity, the 2:4 pattern or the bits of the hidden
matrices (attention and perceptron), which have 96 % of the parameters. The referee measures the
constraint on the weights of each evaluation, and both conditions must hold at the same one.

Goal at mini: the accuracy of the tuned reference (magnitude, wanda or int8_ste) at three quarters
of the budget, rule `share` of conf/targets.yaml. Budget: `horizon` reference steps.
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
