"""Handwritten digits as a problem of recognition: 4,000 to train on, 1,000 held out."""

import torch
from torch import Tensor

from workloads.data import images

# Every fifth digit is held out, as in vit.
HELD_OUT = 5
CLASSES = 10


def digits(split: str) -> tuple[Tensor, Tensor]:
    """Return a split's images, uint8 [N, 784], and labels, int64 [N], sorted by label.

    Args:
        split: "train" has 4,000 digits, "val" 1,000; each has as many of every class.
    """
    pixels, labels = images.mnist()
    held = torch.arange(len(labels)) % HELD_OUT == HELD_OUT - 1
    mine = held if split == "val" else ~held
    return pixels[mine].flatten(1), labels[mine]
