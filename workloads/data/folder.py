"""Labelled images in a local folder: CIFAR-10's files, or one subfolder per class (ImageNet).

An image folder has files `folder/SPLIT/CLASS/*`, with classes in order of their names. Images are
decoded for each batch: bicubic scaling of the shorter side to 8/7 of the output side, then a centre
crop. There is no augmentation, so a batch depends on the example numbers alone.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
# Bytes of one CIFAR-10 image with its label.
RECORD = 1 + 3 * 32 * 32


def given(folder: str | None, what: str) -> Path:
    """Return the folder of the configuration; raise UserError if there is none."""
    if not folder:
        raise UserError(
            f"data.folder is not set; it holds {what}", do="workload.SCALE.data.folder=FOLDER"
        )
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f"data.folder={folder} is not a folder", f"it holds {what}")
    return path


def cifar10(folder: str | None, split: str) -> tuple[Tensor, Tensor]:
    """Return images uint8 [N, 3, 32, 32] and labels int64 [N] of CIFAR-10's "binary version"."""
    place = given(folder, "data_batch_1.bin to data_batch_5.bin and test_batch.bin")
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    missing = [name for name in names if not (place / name).is_file()]
    if missing:
        raise UserError(f"{place} has no {missing[0]}", "CIFAR-10, binary version")
    rows = np.concatenate([np.fromfile(place / name, np.uint8) for name in names])
    table = torch.from_numpy(rows.reshape(-1, RECORD))
    return table[:, 1:].reshape(-1, 3, 32, 32).contiguous(), table[:, 0].long()


def index(folder: str | None, split: str, classes: int) -> dict[str, Tensor | Path]:
    """Return an index to open any image: names (joined, uint8), ends, labels (int64 [N]), folder.

    Raises:
        UserError: the split's folder is missing, has another number of classes, or has no image.
    """
    place = given(folder, "train/CLASS/* and val/CLASS/*") / split
    found = sorted(p for p in place.iterdir() if p.is_dir()) if place.is_dir() else []
    if len(found) != classes:
        raise UserError(
            f"{place} has {len(found)} class folders", f"model.classes={classes} of them"
        )
    files = [
        (i, p)
        for i, c in enumerate(found)
        for p in sorted(c.rglob("*"))
        if p.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise UserError(f"{place} has no image", ", ".join(sorted(SUFFIXES)))
    names = [str(p.relative_to(place)).encode() for _, p in files]
    return {
        "names": torch.from_numpy(np.frombuffer(b"".join(names), np.uint8).copy()),
        "ends": torch.tensor([len(name) for name in names]).cumsum(0),
        "labels": torch.tensor([label for label, _ in files]),
        "folder": place,
    }


def images(data: dict[str, Tensor | Path], numbers: Tensor, side: int, threads: int) -> Tensor:
    """Return images by number, uint8 [B, 3, side, side]."""
    paths = []
    for i in numbers.tolist():
        start = int(data["ends"][i - 1]) if i else 0
        paths.append(
            data["folder"] / bytes(data["names"][start : data["ends"][i]].tolist()).decode()
        )
    with ThreadPoolExecutor(threads) as pool:
        return torch.stack(list(pool.map(lambda path: _decode(path, side), paths)))


def _decode(path: Path, side: int) -> Tensor:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except OSError as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from None
    scale = round(side * 8 / 7) / min(image.size)
    size = [max(side, round(edge * scale)) for edge in image.size]
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = ((edge - side) // 2 for edge in size)
    pixels = np.asarray(image.crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
