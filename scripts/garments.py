"""Make the subset of Fashion-MNIST that the vision workloads train on, and its hashes.

    python scripts/garments.py                # from Debian's package, installed or fetched; compare
    python scripts/garments.py FOLDER         # from a folder with the four IDX files
    python scripts/garments.py FOLDER --write # write workloads/data/garments.*.xz

24,000 of the 60,000 training images and 5,000 of the 10,000 test images, at even distances. A file
has the images one after the other, a byte a pixel, and then the labels, a byte each. Fashion-MNIST
(Zalando SE, MIT) is small enough in this form to be shipped, so a race needs no network.
"""

import argparse
import hashlib
import lzma
import sys

import torch

from harness.errors import UserError
from harness.system.files import atomic_write
from workloads.data import garments, images


def packed(folder: str | None, split: str) -> bytes:
    """Return the bytes of a split: its images, then its labels."""
    pixels, labels = images.fashion(folder, split)
    count = garments.FILES[split].count
    chosen = torch.arange(count) * len(labels) // count
    return pixels[chosen].numpy().tobytes() + labels[chosen].byte().numpy().tobytes()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="with the IDX files of Fashion-MNIST")
    parser.add_argument("--write", action="store_true", help="write the files")
    given = parser.parse_args()
    same = True
    for split, file in garments.FILES.items():
        content = packed(given.folder, split)
        found = hashlib.sha256(content).hexdigest()
        same &= found == file.sha256
        path = garments.path(split)
        if given.write:
            filters = [
                {
                    "id": lzma.FILTER_LZMA2,
                    "preset": 9 | lzma.PRESET_EXTREME,
                    "lc": 0,
                    "lp": 0,
                    "pb": 0,
                }
            ]
            atomic_write(path, lzma.compress(content, filters=filters))
        size = path.stat().st_size if path.exists() else 0
        print(f"{path.name}: {file.count} images, {size} bytes, sha256 {found}")
    if not same:
        print("workloads/data/garments.py states other hashes", file=sys.stderr)
    return 0 if same else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(str(error))
