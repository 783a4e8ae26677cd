"""Grey 28 x 28 images of garments in ten classes: a subset of Fashion-MNIST that is shipped.

    train    24,000 of its 60,000 training images
    test      5,000 of its 10,000 test images

Fashion-MNIST is by Zalando SE, under the MIT licence (arXiv 1708.07747). scripts/garments.py makes
the files from the published ones, and says which images are in them.
"""

import functools
import hashlib
import lzma
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.errors import UserError, nearest

SIDE = 28


class File(NamedTuple):
    """A split: its images, and the sha256 of its decompressed bytes."""

    count: int
    sha256: str


FILES = {
    "train": File(24000, "34ef109a75a4c1bb2c7603cdf56ecebed027d1ca553dc578fdbce9eff7620407"),
    "test": File(5000, "df766c9fe0709d52918d3f7a0e3900dfa44a746dd85db6e8d5721e92da575651"),
}


def path(split: str) -> Path:
    """Return where the file of a split lies."""
    return Path(__file__).with_name(f"garments.{split}.xz")


@functools.cache
def garments(split: str) -> tuple[Tensor, Tensor]:
    """Return the split "train" or "test": images uint8 [N, 28, 28], labels int64 [N].

    Raises:
        UserError: there is no such split, or the file is missing or damaged.
    """
    if split not in FILES:
        raise UserError(f"the garments have no split {split!r}", nearest(split, FILES))
    file, place = FILES[split], path(split)
    try:
        content = lzma.decompress(place.read_bytes())
    except (OSError, lzma.LZMAError) as error:
        raise UserError(
            f"{place} cannot be read: {error}", do="install the project again"
        ) from None
    if (found := hashlib.sha256(content).hexdigest()) != file.sha256:
        raise UserError(
            f"{place} has sha256 {found[:12]} when decompressed, not {file.sha256[:12]}",
            do="install the project again",
        )
    whole = torch.from_numpy(np.frombuffer(content, np.uint8).copy())
    pixels = whole[: file.count * SIDE * SIDE].view(file.count, SIDE, SIDE)
    return pixels, whole[file.count * SIDE * SIDE :].long()
