"""Image classification by a vision transformer, for four clients with classes of their own.

    mini    vit's images and model; the shares of each class drawn by Dirichlet(0.3)

A client has much of some garments and little of others, as in Hsu et al., arXiv 1909.06335. The
held-out images are of all classes alike. Exchanges between clients are priced as in `fed`: one
all-reduce of as many numbers as the model has parameters costs `fed.exchange` reference steps,
stated and not measured. A plain optimizer pays for one in each step. Variant: with `even` every
client has equal shares of each class. Licence: Fashion-MNIST MIT, a part of it shipped.

The goal is one that DiLoCo meets with all seeds. Budget: `horizon` reference steps, in which a
plain optimizer makes 250 steps.
"""

from types import SimpleNamespace

from torch import Tensor

from workloads import vit as base
from workloads.fed import clients, divided
from workloads.vit import inputs, logits, loss, losses, metric, model, sample, score, size

__all__ = [
    "clients",
    "inputs",
    "logits",
    "loss",
    "losses",
    "metric",
    "model",
    "sample",
    "score",
    "size",
]


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return images uint8 [N, C, side, side] and labels int64 [N]; of "train" also clients."""
    made = base.data(config, split)
    return made if split == "val" else made | {"client": divided(made["labels"], config.fed)}


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return vit's batch and, to train on, client int64 [B]."""
    made = base.batch(data, index, config)
    return made | {"client": data["client"][index]} if "client" in data else made
