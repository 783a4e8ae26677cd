"""Active learning: 50 training digits have a label, and each further label has a price.

    mini    an MLP 784-100-100-10 on 4,000 MNIST digits, 89,610 parameters

`task.reveal(numbers)` buys labels; the referee has them, answers and counts. `next_batch` goes over
the digits that have one. `task.unlabelled` has the numbers of the others, and `gather` gives their
images: a batch with such a digit has no `targets`, so its scores and features can be computed, and
its loss cannot. For a submission that buys none, the harness buys 50 random labels five times, at
every sixth of the horizon. So a plain optimizer runs, and is the null of this workload.
Licence: MNIST states none.

Each label costs `labels.price` reference steps beside those of training, and the goal allows 300,
those of the start included. The price is charged to the time; the horizon does not depend on it.

Measured at mini with four seeds and lr 1e-3, the best accuracy of 16 evaluations with at most 300
labels: margin 0.886, 0.892, 0.892, 0.894; entropy 0.858 to 0.889; random_labels 0.843 to 0.876;
pivotal 0.818 to 0.865; core_set 0.837 to 0.861; adamw 0.819 to 0.861. With lr 3e-3 and two seeds
margin has 0.893 and 0.896, random_labels 0.851 and 0.871. So margin alone meets the goal with every
seed; spreading labels out, as core_set and pivotal do, is worth nothing here.

Goal at mini: the accuracy of the tuned reference, margin, at half of the budget, rule `share` of
conf/targets.yaml; the labels are stated. Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from harness.errors import UserError
from workloads.data.recognition import digits
from workloads.models import recognising
from workloads.models.recognising import features, inputs, logits, metric, model, score, size

__all__ = [
    "batch",
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
    """Return images uint8 [N, 784] and labels int64 [N]; a runner gets -1 for those not bought."""
    images, labels = digits(split)
    return {"images": images, "labels": labels}


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs, uint8 [B, 784], and targets, int64 [B], if every digit has a label."""
    made = recognising.batch(data, index, config)
    return {"inputs": made["inputs"]} if bool((made["targets"] < 0).any()) else made


def nats(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the nats of every image, [B]."""
    return recognising.nats(logits, _labelled(batch))


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the nats of every image, [B]."""
    return recognising.losses(model, _labelled(batch))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean nats per image."""
    return recognising.loss(model, _labelled(batch))


def sample(model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Return the mean nats per image against labels drawn from the model; it needs no label."""
    return recognising.sample(model, batch, generator)


def _labelled(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the batch; raise UserError if an image in it has no label."""
    if "targets" not in batch:
        raise UserError(
            "the loss of examples whose labels were not bought",
            "examples of task.labelled, or task.next_batch()",
            "task.reveal(numbers) buys labels",
        )
    return batch
