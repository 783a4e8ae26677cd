"""Handwritten digits as a problem of recognition: 4,000 to train on, 1,000 held out."""

import torch
from torch import Tensor

from workloads.data import images

# Every fifth digit is held out, as in vit.
HELD_OUT = 5
CLASSES = 10


def digits(split: str) -> tuple[Tensor, Tensor]:
    """Return a split's images, uint8 [N, 784], and labels, int64 [N].

    The source sorts digits by class. Those to train on are shuffled, so that an example's number
    tells nothing of a label that is not given.

    Args:
        split: "train" has 4,000 digits, "val" 1,000; each has as many of every class.
    """
    pixels, labels = images.mnist()
    held = torch.arange(len(labels)) % HELD_OUT == HELD_OUT - 1
    mine = held if split == "val" else ~held
    pixels, labels = pixels[mine].flatten(1), labels[mine]
    if split == "val":
        return pixels, labels
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(4000))
    return pixels[order], labels[order]
