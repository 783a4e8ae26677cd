"""Federated training: four clients have the data, and each exchange between them has a price.

    mini    an MLP 784-100-100-10 on 4,000 MNIST digits of four clients, 89,610 parameters

An exchange is one all-reduce of as many numbers as the model has parameters. Its price is stated,
not measured: `fed.exchange` reference steps. A pass that computes a gradient on examples of more
than one client counts one exchange by itself, so a plain optimizer runs unchanged and pays for one
in each step. Methods that know of clients take `task.clients`, work on one client's examples at a
time, and count what they send by `task.exchange(share)`. All clients share one process and one
model, so counting is a matter of trust: docs/rules.md. Licence: MNIST states none.

The clock counts work and messages. Nobody waits for anybody, so methods against waiting win nothing
here. Variants: `skewed` gives clients other classes (shares of each class drawn by Dirichlet(0.1)),
in `slow` an exchange costs 100 reference steps, in `free` nothing.

Measured at mini with one seed, reference steps until accuracy is 0.94, exchanges included: adamw
2,650 (126 steps), one_bit_adam 2,050, fedavg 825, scaffold 460, diloco 455, power_sgd 370.

Goal at mini: the accuracy of the tuned reference, diloco, at three fifths of the budget, rule
`share` of conf/targets.yaml. Budget: `horizon` reference steps, in which a plain optimizer makes
400 steps.
"""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from workloads.data.recognition import CLASSES, digits
from workloads.models.recognising import (
    batch as plain,
)
from workloads.models.recognising import (
    features,
    inputs,
    logits,
    loss,
    losses,
    metric,
    model,
    nats,
    sample,
    score,
    size,
)

__all__ = [
    "batch",
    "clients",
    "data",
    "features",
    "inputs",
    "logits",
    "loss",
    "losses",
    "metric",
    "model",
    "nats",
    "sample",
    "score",
    "size",
]


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return images uint8 [N, 784] and labels int64 [N]; of "train" also each digit's client."""
    images, labels = digits(split)
    made = {"images": images, "labels": labels}
    return made if split == "val" else made | {"client": divided(labels, config.fed)}


def divided(labels: Tensor, fed: SimpleNamespace) -> Tensor:
    """Return the client of each digit, int64 [N]: equal shares, or drawn for each class."""
    random = np.random.default_rng(0)
    owner = np.empty(len(labels), dtype=np.int64)
    for label in range(CLASSES):
        members = random.permutation(np.flatnonzero(labels.numpy() == label))
        shares = np.full(fed.clients, 1 / fed.clients)
        if fed.skew:
            shares = random.dirichlet(np.full(fed.clients, fed.skew))
        ends = np.rint(shares.cumsum() * len(members)).astype(np.int64)
        for client, part in enumerate(np.split(members, ends[:-1])):
            owner[part] = client
    return torch.from_numpy(owner)


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs uint8 [B, 784], targets int64 [B] and, to train on, client int64 [B]."""
    made = plain(data, index, config)
    return made | {"client": data["client"][index]} if "client" in data else made


def clients(data: dict[str, Tensor], config: SimpleNamespace) -> Tensor:
    """Return the client of each training digit, int64 [N]."""
    return data["client"]
