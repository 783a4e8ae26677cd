"""Two groups of digits as a problem of linear classification, in float64."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.data import images

# Every fifth digit is left out, as in vit.
LEFT_OUT = 5
# Of each image: rates that suit networks then suit the problem as well.
NORM = 10.0


def two_groups(data: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs, float64 [n, (28/pool)²], and targets, float64 [n]: 1 or -1.

    The pixels of a square of `pool` by `pool` are averaged, the mean image is subtracted, and each
    image is scaled to norm NORM.

    Args:
        data: `positive` and `negative`, the digits of each group; `pool`; `flipped`, the share of
            targets that change their sign; `limit`, the number of digits used, or None for all.
    """
    inputs, labels = _scaled(data)
    positive = torch.isin(labels, torch.tensor([*data.positive]))
    targets = torch.where(positive, 1.0, -1.0).double()
    generator = torch.Generator().manual_seed(0)
    hit = torch.randperm(len(targets), generator=generator)[: round(data.flipped * len(targets))]
    targets[hit] *= -1
    return {"inputs": inputs, "targets": targets}


def means(data: SimpleNamespace, chosen: tuple[int, ...]) -> Tensor:
    """Return the mean input of each of the chosen digits, float64 [digits, pixels]."""
    inputs, labels = _scaled(data)
    return torch.stack([inputs[labels == digit].mean(dim=0) for digit in chosen])


def _scaled(data: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Return centred and scaled images, float64 [n, pixels], and their digits, int64 [n]."""
    pixels, labels = images.mnist()
    kept = torch.arange(len(labels)) % LEFT_OUT != LEFT_OUT - 1
    kept &= torch.isin(labels, torch.tensor([*data.positive, *data.negative]))
    pixels, labels = F.avg_pool2d(pixels[kept].double() / 255, data.pool), labels[kept]
    pixels = pixels.flatten(1)
    if data.limit:
        chosen = torch.arange(data.limit) * len(labels) // data.limit
        pixels, labels = pixels[chosen], labels[chosen]
    inputs = pixels - pixels.mean(dim=0)
    return inputs * (NORM / inputs.norm(dim=1, keepdim=True)), labels


def components(count: int, held_out: bool) -> dict[str, Tensor]:
    """Return principal components of digits, float64 [n, count], and digits as int64 targets [n].

    Mean, components and their deviations are those of the 4,000 training digits.

    Args:
        held_out: return the 1,000 digits that are left out of training instead.
    """
    pixels, labels = images.mnist()
    rows = pixels.flatten(1).double() / 255
    kept = torch.arange(len(labels)) % LEFT_OUT != LEFT_OUT - 1
    mean = rows[kept].mean(dim=0)
    values, vectors = torch.linalg.eigh((rows[kept] - mean).T @ (rows[kept] - mean))
    chosen = vectors[:, -count:].flip(1)
    # The sign of an eigenvector is arbitrary, and differs between libraries.
    largest = chosen.gather(0, chosen.abs().argmax(dim=0, keepdim=True))
    deviation = (values[-count:].flip(0) / int(kept.sum())).sqrt()
    mine = ~kept if held_out else kept
    return {"inputs": (rows[mine] - mean) @ (chosen * largest.sign() / deviation),
            "targets": labels[mine]}  # fmt: skip
