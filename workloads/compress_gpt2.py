"""Compression of a trained language model: sparse or low-bit matrices near the dense loss.

    mini    0.34 M parameters, pretrained on the State of the Union addresses

Training starts from the checkpoint of ft_gpt2 and uses the data of its pretraining: State of the
Union addresses (public domain). Loss and metric are those of the gpt2 workload.

The goal is a loss under a constraint: zeros, patterns, bits or stored bits of the hidden matrices
(attention and perceptron, 58 % of the parameters), the size or the operations without dead heads
and neurons, rounded inputs, or a loss of half the network as well. The referee measures it on the
weights of each evaluation, and all conditions must hold at the same one.

Goal at mini: the loss of the tuned reference (magnitude, wanda or int8_ste) at three quarters of
the budget, rule `share` of conf/targets.yaml. Budget: `horizon` reference steps.
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
    """Return the weights that training starts from, by name."""
    return checkpoint(config, gpt2)
