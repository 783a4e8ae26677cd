"""Checkpoints: one safetensors file each, atomic, checksummed, two kept, never a pickle.

The name of a file is `step-000000120-<checksum>.safetensors`; the checksum covers all of it. What
is not a tensor is JSON in the header of the same file, so there is nothing to get out of step.
"""

import hashlib
import json
import math
import os
import re
import shutil
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.system.files import BadFile, atomic_write

if TYPE_CHECKING:
    from torch import Tensor

BEFORE_CROSSING = "before_crossing"  # folder of the checkpoint that `harness refine` starts from
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


def keep_only(folder: Path | str) -> None:
    """Make the folder, and drop what is no checkpoint: nothing else comes from earlier attempts."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.is_symlink() or not NAME.fullmatch(path.name):
            path.unlink()


def put_by(folder: Path, step: int, place: Path) -> None:
    """Link the checkpoint of `step`, if it is there, into `place`, where nothing is dropped."""
    for path in folder.glob(f"step-{step:09d}-*.safetensors"):
        place.mkdir(exist_ok=True)
        if not (place / path.name).exists():
            os.link(path, place / path.name)


def load(folder: Path | str) -> tuple[int, dict[str, "Tensor"], dict] | None:
    """The newest usable checkpoint as (step, tensors, meta), tensors on the CPU; None if none is.

    A corrupt or truncated one is skipped with a `CorruptCheckpoint` warning that names it.
    """
    for _, path in reversed(_found(Path(folder))):
        try:
            return _read(path)
        except (BadFile, OSError) as error:
            warnings.warn(f"checkpoint skipped: {error}", CorruptCheckpoint, stacklevel=2)
    return None


def flatten_state(state: Any) -> tuple[dict[str, "Tensor"], Any]:
    """Split nested state into its tensors and a JSON-able tree that refers to them by path.

    Takes dicts (keys: strings and integers), lists, tuples, tensors, numbers, strings, bools and
    None. Tensors are detached, made contiguous and moved to the CPU; entries that shared memory
    are restored as separate tensors.

    Raises:
        TypeError: anything else, with its key.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    return tensors, _flatten(state, "", tensors, seen)


def restore_state(tensors: dict[str, "Tensor"], tree: Any) -> Any:
    """What `flatten_state` was given."""
    if not isinstance(tree, list):
        return tree
    kind, *items = tree
    match kind:
        case "tensor":
            return tensors[items[0]]
        case "float":
            return float(items[0])
        case "list":
            return [restore_state(tensors, item) for item in items]
        case "tuple":
            return tuple(restore_state(tensors, item) for item in items)
        case "dict" | "ordered":
            pairs = [(key, restore_state(tensors, item)) for key, item in items]
            return dict(pairs) if kind == "dict" else OrderedDict(pairs)
    raise ValueError(f"unknown kind of state: {kind!r}")


def _flatten(value: Any, key: str, tensors: dict[str, "Tensor"], seen: set[int]) -> Any:
    """One value as tree; scalars are themselves, all else is a list that starts with its kind."""
    kind = type(value)  # exact: a subclass would come back as something else
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else ["float", repr(value)]
    under = f"{key}." if key else ""
    if kind in (list, tuple):
        items = [_flatten(item, f"{under}{i}", tensors, seen) for i, item in enumerate(value)]
        return [kind.__name__, *items]
    if kind in (dict, OrderedDict):
        for name in value:
            if type(name) not in (str, int):
                raise TypeError(
                    f"{key or 'state'}: a key must be a string or an integer, not {name!r}"
                )
        items = [[n, _flatten(v, f"{under}{n}", tensors, seen)] for n, v in value.items()]
        return ["dict" if kind is dict else "ordered", *items]
    name = key
    while name in tensors:  # 1 and "1", or "a.b" and "b" in "a"
        name += "'"
    tensors[name] = _plain(value, key or "state", seen)
    return ["tensor", name]


def _plain(value: Any, key: str, seen: set[int]) -> "Tensor":
    """The tensor as safetensors stores it: dense, contiguous, on the CPU, memory of its own."""
    import torch
    from safetensors.torch import _TYPES as storable

    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        allowed = "dicts, lists, tuples, tensors, numbers, strings, bools and None"
        raise TypeError(f"{key}: cannot store a {type(value).__name__}; state is {allowed}")
    if value.layout != torch.strided or value.is_meta or value.dtype not in storable.values():
        what = f"{value.layout}, {value.dtype}, {value.device}"
        raise TypeError(f"{key}: cannot store this tensor ({what}); it must be dense and real")
    tensor = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    memory = tensor.untyped_storage().data_ptr()
    if memory in seen:
        tensor = tensor.clone()
    seen.add(tensor.untyped_storage().data_ptr())
    return tensor


def _read(path: Path) -> tuple[int, dict[str, "Tensor"], dict]:
    """One checkpoint, verified against the checksum in its name."""
    from safetensors.torch import load as from_bytes

    content = path.read_bytes()
    match = NAME.fullmatch(path.name)
    assert match
    if _checksum(content) != match[2]:
        raise BadFile(path, "it is corrupt or truncated (its checksum differs)")
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header["__metadata__"]
    state = restore_state(from_bytes(content), json.loads(metadata["tree"]))
    return int(metadata["step"]), state["tensors"], state["meta"]


def _found(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints in `folder` as (step, path), oldest first."""
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
