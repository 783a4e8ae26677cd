"""Prepare a workload's data once, and open it."""

import json
import time
from pathlib import Path

from harness.catalog import discover, key
from harness.catalog.definition import Definition, load_workload
from harness.system.files import atomic_write, locked
from harness.system.hashing import canonical, digest
from harness.system.paths import cache_folder

# A function of workloads that start from trained weights; also the split that keeps them.
PRETRAINED = "pretrained"
TENSORS, PATHS = "tensors.safetensors", "paths.json"


def prepare(definition: Definition, split: str, seed: int = 0) -> Path | None:
    """Make the split's data once and return its folder; None if the workload has no such split.

    The folder has `tensors.safetensors` and `paths.json`. Its name is a hash of the code and of all
    numbers but those of the race itself, so a change of the goal or the budget prepares nothing
    anew. A workload whose `data` has a third parameter, `seed`, draws a problem of its own for each
    trial's seed. With a key of one's own (harness/catalog/key.py) all problems are others. The
    workload's module is imported only where something is to be made.
    """
    offered = discover.functions(definition.plugin)
    if split == PRETRAINED and PRETRAINED not in offered:
        return None
    race_only = ("goal", "horizon", "evaluate", "batch", "deadlines")
    numbers = {k: v for k, v in definition.block.items() if k not in race_only}
    drawn = (key.seed_of(seed),) if "seed" in offered["data"] else ()
    keyed = [key.fingerprint()] if key.fingerprint() and split != PRETRAINED else []
    known = digest(canonical(numbers), definition.source, *map(str, drawn), *keyed)[:16]
    folder = cache_folder() / "prepared" / f"{definition.name}-{split}-{known}"
    while not (folder / PATHS).exists():
        with locked(folder, elsewhere="HARNESS_CACHE=FOLDER in the environment") as mine:
            if not mine:
                # Another process prepares it.
                time.sleep(0.1)
                continue
            _make(definition, split, drawn, folder)
    return folder


def _make(definition: Definition, split: str, drawn: tuple, folder: Path) -> None:
    """Write the split's data into the folder."""
    module = load_workload(definition)
    if split == PRETRAINED:
        return write(folder, module.pretrained(definition.config))
    with key.keyed_generators():
        content = module.data(definition.config, split, *drawn)
    return write(folder, content)


def write(folder: Path, content: dict) -> None:
    """Write tensors and paths into a folder, for `open_data`."""
    from safetensors.torch import save

    tensors = {k: v.contiguous() for k, v in content.items() if not isinstance(v, Path)}
    atomic_write(folder / TENSORS, save(tensors))
    paths = {k: str(v) for k, v in content.items() if isinstance(v, Path)}
    # Last, because its presence means that the folder is complete.
    atomic_write(folder / PATHS, json.dumps(paths))


def open_data(folder: Path, device: str = "cpu") -> dict:
    """Return the folder's tensors, memory-mapped if the device is the CPU, and its paths."""
    from safetensors.torch import load_file

    paths = {k: Path(v) for k, v in json.loads((folder / PATHS).read_text()).items()}
    return load_file(folder / TENSORS, device=device) | paths
