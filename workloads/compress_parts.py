"""Compression in parts: each matrix is the sum of a matrix, two factors and a sparse rest.

    mini    compress_gpt2's model and data; factors of rank up to 8 beside each hidden matrix

A matrix of few bits loses less where a correction of low rank, or a few outliers, is stored beside
it: LoRC (Yao et al., arXiv 2303.08302), LoftQ (arXiv 2310.08659), SqueezeLLM (arXiv 2306.07629).
Here the model itself has a place for these parts, all zero at first. The referee adds them up when
it evaluates, and `stored_bits` counts what each part takes. A method that does not know of parts
leaves them at zero and stores its matrices as elsewhere.

Text, model, checkpoint and licence are those of compress_gpt2. The goals are provisional: no
campaign has set them. Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from workloads import compress_gpt2 as base
from workloads.compress_gpt2 import batch, data, inputs, loss, losses, metric, sample, score, size
from workloads.models.parts import in_parts

__all__ = [
    "batch",
    "data",
    "inputs",
    "loss",
    "losses",
    "metric",
    "sample",
    "score",
    "size",
]


def model(config: SimpleNamespace) -> nn.Module:
    return in_parts(base.model(config), config.model.rank)


def pretrained(config: SimpleNamespace) -> dict[str, Tensor]:
    """Return the weights that training starts from, by name; the parts are zero."""
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in model(config).state_dict().items()}
    start = base.pretrained(config)
    return {name: start.get(name, torch.zeros(shape)) for name, shape in shapes.items()}
