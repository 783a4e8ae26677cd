"""Images by a vision transformer behind convolutions with batch normalisation.

    mini    0.2 M parameters on 24,000 garments of Fashion-MNIST, 5,000 of its test set held out

As `vit`, whose data, loss and metrics it takes, but the patches are made by three convolutions of
3 x 3 with stride 2, two of them with batch normalisation and ReLU (Xiao et al., "Early Convolutions
Help Transformers See Better", arXiv 2106.14881). So the model has parameters of the role
"convolution", its loss on an example depends on the batch, and every pass in training mode moves
the running statistics, which the evaluation uses. A method that makes several passes a step moves
them several times; one that evaluates averaged weights has statistics of the weights it trained.
Per-example gradients do not exist here. Licence: Fashion-MNIST MIT, a part of it shipped.

Goal at mini: provisional, until `harness target` has set it. One run of nadamw at the point tuned
for `vit` ended at 0.3597 after three quarters of the budget. Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

from torch import nn

from workloads.models.conv_vit import ConvViT
from workloads.vit import batch, data, inputs, logits, loss, losses, metric, sample, score, size

__all__ = [
    "batch", "data", "inputs", "logits", "loss", "losses", "metric", "sample", "score", "size",
]  # fmt: skip


def model(config: SimpleNamespace) -> nn.Module:
    return ConvViT(config.model)
