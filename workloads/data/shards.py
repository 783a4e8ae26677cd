"""Token shards: files of little-endian uint16 tokens without header, and an index.json.

    FOLDER/train/00000.bin, 00001.bin, ..., index.json
    FOLDER/val/00000.bin, ..., index.json

index.json: {"vocabulary": 50257, "tokens": N, "documents": D,
             "shards": [{"file": "00000.bin", "tokens": n, "sha256": ...}, ...]}
"""

import functools
import json
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.errors import UserError

DTYPE = np.dtype("<u2")


def locate(folder: str | Path | None, split: str, vocabulary: int) -> Path:
    """Return a split's folder; check that its shards are complete, with tokens below `vocabulary`.

    Raises:
        UserError: no folder was given, it is missing or incomplete, or its vocabulary is larger
            than the model's.
    """
    make = "type: python scripts/prepare_shards.py SOURCE --out FOLDER, then set data.folder=FOLDER"
    if not folder:
        raise UserError("this scale reads token shards and data.folder is not set", do=make)
    split_folder = Path(folder).expanduser() / split
    if not (split_folder / "index.json").exists():
        raise UserError(f"data.folder={folder} has no {split}/index.json", do=make)
    index = json.loads((split_folder / "index.json").read_text())
    if index["vocabulary"] > vocabulary:
        raise UserError(f"{split_folder} has {index['vocabulary']} tokens, the model {vocabulary}")
    for shard in index["shards"]:
        file = split_folder / shard["file"]
        if not file.exists() or file.stat().st_size != shard["tokens"] * DTYPE.itemsize:
            raise UserError(f"{file} is missing or not {shard['tokens']} tokens long", do=make)
    return split_folder


def count(folder: Path, context: int) -> int:
    """Return the number of windows of `context` tokens plus one target; none spans two shards."""
    return _ends(folder, context)[-1]


def windows(folder: Path, index: Tensor, context: int) -> Tensor:
    """Return windows [B, context + 1], int64, of the examples numbered by `index` [B]."""
    ends = _ends(folder, context)
    rows = np.empty((len(index), context + 1), dtype=np.int64)
    shards = np.searchsorted(ends, index.cpu().numpy(), side="right")
    for row, example, shard in zip(rows, index.tolist(), shards.tolist(), strict=True):
        first = (example - (ends[shard - 1] if shard else 0)) * context
        row[:] = _tokens(folder, shard)[first : first + context + 1]
    return torch.from_numpy(rows)


@functools.cache
def _index(folder: Path) -> list[dict]:
    return json.loads((folder / "index.json").read_text())["shards"]


@functools.cache
def _ends(folder: Path, context: int) -> list[int]:
    return list(accumulate((shard["tokens"] - 1) // context for shard in _index(folder)))


@functools.cache
def _tokens(folder: Path, shard: int) -> np.memmap:
    return np.memmap(folder / _index(folder)[shard]["file"], dtype=DTYPE, mode="r")
