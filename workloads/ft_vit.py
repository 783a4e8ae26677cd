"""Fine-tuning of a vision transformer: handwritten digits to garments.

    mini    0.2 M parameters, pretrained on 4,000 MNIST digits, to 8,000 garments of Fashion-MNIST

The start is a checkpoint that workloads/pretrain/checkpoint.py makes: deterministic, pinned by
hash, the same for every submission and seed. The readout is the head, which every method trains and
no budget counts. Variants bound the share of the other parameters. Garments (MIT) come from
Debian's package or a folder, see workloads/data/images.py; batches, loss and metric are those of
the vit workload.
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
