"""What workloads of digits have in common: the functions of a Classifier and its batches."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.models.classifier import Classifier


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of images."""
    return len(data["images"])


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs, uint8 [B, 784], and targets, int64 [B]."""
    return {"inputs": data["images"][index], "targets": data["labels"][index]}


def model(config: SimpleNamespace) -> nn.Module:
    return Classifier(config.model)


def inputs(batch: dict[str, Tensor]) -> Tensor:
    """Return the model's input."""
    return batch["inputs"]


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the scores of all classes, [B, 10]."""
    return model(batch["inputs"])


def features(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the readout's input, [B, width]."""
    return model.features(batch["inputs"])


def nats(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the nats of every image, [B]."""
    return F.cross_entropy(logits, batch["targets"], reduction="none")


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the nats of every image, [B]."""
    return nats(model(batch["inputs"]), batch)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean nats per image."""
    return F.cross_entropy(model(batch["inputs"]), batch["targets"])


def sample(model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Return the mean nats per image against labels drawn from the model."""
    scores = model(batch["inputs"])
    share = scores.detach().softmax(dim=1).to(generator.device)
    drawn = torch.multinomial(share, 1, generator=generator).squeeze(1)
    return F.cross_entropy(scores, drawn.to(scores.device))


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return nats, correct answers and images (`count`) of the batch."""
    scores, targets = model(batch["inputs"]), batch["targets"]
    return {
        "nats": F.cross_entropy(scores, targets, reduction="sum"),
        "right": (scores.argmax(dim=1) == targets).sum(),
        "count": torch.tensor(len(targets)),
    }


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return accuracy, the share of correct answers, and loss, in nats per image."""
    return {"accuracy": sums["right"] / sums["count"], "loss": sums["nats"] / sums["count"]}
