"""Checkpoints: one safetensors file each, atomic, checksummed, two kept, never a pickle.

The name of a file is `step-000000120-<checksum>.safetensors`; the checksum covers all of it. What
is not a tensor is JSON in the header of the same file, so there is nothing to get out of step.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from harness.system.files import BadFile, atomic_write, remove_tree
from harness.train.state_tree import flatten_state, restore_state

if TYPE_CHECKING:
    from torch import Tensor

BEFORE_CROSSING = "before_crossing"  # folder of the checkpoint that `harness refine` starts from
# What reading raises where a name has the right checksum and the content was never a checkpoint.
CRAFTED = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)
NAME = re.compile(r"step-(\d+)-([0-9a-f]{32})\.safetensors")


class CorruptCheckpoint(UserWarning):
    """A checkpoint was skipped because its content is not what was written."""


def save(folder: Path | str, step: int, tensors: dict[str, "Tensor"], meta: dict) -> Path:
    """Write the checkpoint of `step`, then drop all but it and the last one before it.

    Args:
        folder: used by one process at a time (`files.locked`); created if missing.
        tensors, meta: nested state as `flatten_state` takes it, tensors allowed in both.

    Returns:
        the file.

    Raises:
        DiskFull: there is no room; the earlier checkpoints are intact.
        TypeError: something that cannot be stored, with its key.
    """
    from safetensors.torch import save as to_bytes

    folder = Path(folder)
    flat, tree = flatten_state({"tensors": tensors, "meta": meta})
    content = to_bytes(flat, metadata={"step": str(step), "tree": json.dumps(tree)})
    path = folder / f"step-{step:09d}-{_checksum(content)}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(path, content)
    _prune(folder, path, step)
    return path


def keep_only(folder: Path | str, names: Collection[str]) -> None:
    """Create the folder, and delete all but the checkpoints of these names.

    Nothing else survives from an earlier attempt.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in list(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        elif path.is_symlink() or path.name not in names or not NAME.fullmatch(path.name):
            path.unlink()


def newest(folder: Path | str) -> str:
    """Return the file name of the newest checkpoint; "" if there is none."""
    checkpoints = _found(Path(folder))
    return checkpoints[-1][1].name if checkpoints else ""


def problem(path: Path, most: int | None = None) -> str | None:
    """Return what is wrong with a checkpoint's file, read from outside; None if nothing is.

    Args:
        most: bytes that the file may have.
    """
    match = NAME.fullmatch(path.name)
    if not match or path.is_symlink() or not path.is_file():
        return f"there is no checkpoint {path.name[:80]!r}"
    if most is not None and (size := path.stat().st_size) > most:
        return f"it has {size:,} bytes; at most {most:,} for what was handed over and its state"
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest()[:32] != match[2]:
            return "its content does not have the hash in its name"
    return None


def preserve(folder: Path, step: int, place: Path) -> None:
    """Link the checkpoint of `step`, if it is there, into `place`, where nothing is dropped."""
    for path in folder.glob(f"step-{step:09d}-*.safetensors"):
        place.mkdir(exist_ok=True)
        if not (place / path.name).exists():
            os.link(path, place / path.name)


def load(folder: Path | str) -> tuple[int, dict[str, "Tensor"], dict] | None:
    """Return the newest usable checkpoint as (step, tensors, meta), on the CPU, or None.

    A corrupt or truncated one is skipped with a `CorruptCheckpoint` warning that names it.
    """
    content = newest_content(folder)
    return None if content is None else restored(content)


def newest_content(folder: Path | str) -> bytes | None:
    """Return the bytes of the newest usable checkpoint, or None; `load` says what is skipped."""
    for _, path in reversed(_found(Path(folder))):
        try:
            return _read(path)
        except (BadFile, OSError) as error:
            warnings.warn(f"checkpoint skipped: {error}", CorruptCheckpoint, stacklevel=2)
    return None


def restored(content: bytes, device: str = "cpu") -> tuple[int, dict[str, "Tensor"], dict]:
    """Return the step, tensors and meta of a checkpoint.

    Args:
        content: the bytes of its file.
        device: where tensors go that were not on the CPU when they were saved.
    """
    from safetensors.torch import load as from_bytes

    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header["__metadata__"]
    state = restore_state(from_bytes(content), json.loads(metadata["tree"]), device)
    return int(metadata["step"]), state["tensors"], state["meta"]


def _read(path: Path) -> bytes:
    """Return the content of one checkpoint, verified against the checksum in its name."""
    from safetensors import SafetensorError

    content = path.read_bytes()
    match = NAME.fullmatch(path.name)
    assert match
    if _checksum(content) != match[2]:
        raise BadFile(path, "it is corrupt or truncated (its checksum differs)")
    try:
        restored(content)
    except (SafetensorError, *CRAFTED) as error:
        raise BadFile(path, f"it has no state ({type(error).__name__}: {error})") from None
    return content


def _found(folder: Path) -> list[tuple[int, Path]]:
    """Return the checkpoints in `folder` as (step, path), oldest first."""
    if not folder.is_dir():
        return []
    matches = [(NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted((int(match[1]), path) for match, path in matches if match)


def _prune(folder: Path, newest: Path, step: int) -> None:
    """Drop old checkpoints, leftovers of interrupted writes, and later steps.

    We have just been at `step`, so a later one was unusable, or belongs to another life.
    """
    found = _found(folder)
    before = [path for at, path in found if at < step]
    for _, path in found:
        if path != newest and path not in before[-1:]:
            path.unlink()
    for path in folder.glob(".step-*.tmp"):
        path.unlink()


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
