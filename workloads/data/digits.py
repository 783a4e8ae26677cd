"""Two groups of digits as a problem of linear classification, in float64."""

from types import SimpleNamespace

import torch
from torch import Tensor

from workloads.data import images

# Every fifth digit is left out, as in vit.
LEFT_OUT = 5
# Of each image: rates that suit networks then suit the problem as well.
NORM = 10.0


def two_groups(data: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs, float64 [n, 784], and targets, float64 [n]: 1 or -1.

    The mean image is subtracted, and each image is scaled to norm NORM.

    Args:
        data: `positive` and `negative`, the digits of each group; `flipped`, the share of targets
            that change their sign; `limit`, the number of digits used, or None for all.
    """
    inputs, labels = _scaled(data)
    positive = torch.isin(labels, torch.tensor([*data.positive]))
    targets = torch.where(positive, 1.0, -1.0).double()
    generator = torch.Generator().manual_seed(0)
    hit = torch.randperm(len(targets), generator=generator)[: round(data.flipped * len(targets))]
    targets[hit] *= -1
    return {"inputs": inputs, "targets": targets}


def means(data: SimpleNamespace, chosen: tuple[int, ...]) -> Tensor:
    """Return the mean input of each of the chosen digits, float64 [digits, 784]."""
    inputs, labels = _scaled(data)
    return torch.stack([inputs[labels == digit].mean(dim=0) for digit in chosen])


def _scaled(data: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Return centred and scaled images, float64 [n, 784], and their digits, int64 [n]."""
    pixels, labels = images.mnist()
    kept = torch.arange(len(labels)) % LEFT_OUT != LEFT_OUT - 1
    kept &= torch.isin(labels, torch.tensor([*data.positive, *data.negative]))
    pixels, labels = pixels[kept].flatten(1).double() / 255, labels[kept]
    if data.limit:
        chosen = torch.arange(data.limit) * len(labels) // data.limit
        pixels, labels = pixels[chosen], labels[chosen]
    inputs = pixels - pixels.mean(dim=0)
    return inputs * (NORM / inputs.norm(dim=1, keepdim=True)), labels
