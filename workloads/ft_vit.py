"""Fine-tuning of a vision transformer: from handwritten digits to garments.

    mini    0.2 M parameters, pretrained on 4,000 MNIST digits, to 24,000 garments of Fashion-MNIST

Training starts from a checkpoint of workloads/pretrain/checkpoint.py, pinned by hash and the same
for every submission and seed. The readout is the head: every method trains it, and the budget of
trained parameters does not count it. Variants bound the share of the other parameters that train,
or the training memory.

Data: the part of Fashion-MNIST (MIT) that is shipped, see workloads/data/garments.py. Batches, loss
and metric are those of the vit workload.

Goal at mini: the held-out cross-entropy of the tuned reference (full fine-tuning, or one that meets
the variant's bound) raced over three quarters of the budget, rule `share` of conf/targets.yaml.
Budget: `horizon` reference steps.
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
