"""Image classification by a vision transformer: loss and accuracy on held-out images.

    mini    0.2 M parameters on 24,000 garments of Fashion-MNIST, 5,000 of its test set held out
    base    Fashion-MNIST (60,000 to train on, its test set held out), or CIFAR-10 from a folder
    full    ViT-S/16 on ImageNet from an image folder (Dosovitskiy et al., arXiv 2010.11929)

Licences: Fashion-MNIST MIT, a part of it shipped (workloads/data/garments.py); MNIST states none;
CIFAR-10 and ImageNet are the user's copies. There is no augmentation: a batch depends on the
example numbers alone. Label noise replaces the labels of a fixed share of the training images by
uniform draws.

Goal at mini: the held-out cross-entropy of the tuned reference (adamw, nadamw) raced over three
quarters of the budget, rule `share` of conf/targets.yaml. An image is seen five times at most, and
the loss falls to the end: accuracy, logged beside it, is known to a hundredth only. Goals at base
and full are provisional, because no race has set them. Budget: `horizon` reference steps.
"""

from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import UserError, nearest
from workloads.data import folder, garments, images
from workloads.models.vit import ViT

# Every fifth image is held out, if the source has no test set.
HELD_OUT = 5


def _split(pixels: Tensor, labels: Tensor, split: str) -> tuple[Tensor, Tensor]:
    held = torch.arange(len(labels)) % HELD_OUT == HELD_OUT - 1
    mine = held if split == "val" else ~held
    return pixels[mine], labels[mine]


# name -> images uint8 [N, (C,) H, W], labels int64 [N] of the split
SOURCES = {
    "mnist": lambda data, split: _split(*images.mnist(), split),
    "garments": lambda data, split: garments.garments("test" if split == "val" else split),
    "fashion": lambda data, split: images.fashion(data.folder, "test" if split == "val" else split),
    "cifar10": lambda data, split: folder.cifar10(data.folder, split),
}


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor | Path]:
    """Return images uint8 [N, C, side, side] and labels int64 [N], or an image folder's index."""
    source = config.data.source
    if source == "folder":
        made = folder.index(config.data.folder, split, config.model.classes)
    elif source in SOURCES:
        pixels, labels = SOURCES[source](config.data, split)
        limit = config.data.train if split == "train" else config.data.validation
        chosen = torch.arange(limit or len(labels)) * len(labels) // (limit or len(labels))
        pixels = pixels[chosen].view(len(chosen), -1, *pixels.shape[-2:])
        made = {"images": pixels, "labels": labels[chosen]}
    else:
        raise UserError(f"data.source={source!r} is unknown", nearest(source, [*SOURCES, "folder"]))
    if split == "train" and config.data.label_noise:
        made["labels"] = _noisy(made["labels"], config)
    return made


def _noisy(labels: Tensor, config: SimpleNamespace) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(config.model.classes, labels.shape, generator=generator)
    struck = torch.rand(labels.shape, generator=generator) < config.data.label_noise
    return torch.where(struck, drawn, labels)


def size(data: dict[str, Tensor | Path], config: SimpleNamespace) -> int:
    """Return the number of images."""
    return len(data["labels"])


def batch(
    data: dict[str, Tensor | Path], index: Tensor, config: SimpleNamespace
) -> dict[str, Tensor]:
    """Return inputs, float [B, C, side, side] normalised, and targets, int64 [B]."""
    if "folder" in data:
        pixels = folder.images(data, index, config.model.side, config.data.threads)
    else:
        pixels = data["images"][index]
    inputs = (pixels.float() / 255 - config.data.mean) / config.data.std
    return {"inputs": inputs, "targets": data["labels"][index]}


def model(config: SimpleNamespace) -> nn.Module:
    return ViT(config.model)


def inputs(batch: dict[str, Tensor]) -> Tensor:
    """Return the model's input."""
    return batch["inputs"]


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the scores of every class, [B, classes]."""
    return model(batch["inputs"])


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean nats per image."""
    return F.cross_entropy(model(batch["inputs"]), batch["targets"])


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the nats of every image, [B]."""
    return F.cross_entropy(model(batch["inputs"]), batch["targets"], reduction="none")


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
    """Return loss, in nats per image, and accuracy, the share of correct answers."""
    return {"loss": sums["nats"] / sums["count"], "accuracy": sums["right"] / sums["count"]}
