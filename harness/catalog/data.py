"""Prepare a workload's data once, and open it."""

import json
import time
from pathlib import Path

from harness.catalog import discover
from harness.catalog.definition import Definition, load_workload
from harness.system.files import atomic_write, locked
from harness.system.hashing import canonical, digest
from harness.system.paths import cache_folder

PRETRAINED = (
    "pretrained"  # function of workloads that start from trained weights; the split that keeps them
)


def prepare(definition: Definition, split: str, seed: int = 0) -> Path | None:
    """Make the split's data once and return its folder: `tensors.safetensors` and `paths.json`.

    The folder's name is a hash of the code and of all numbers but those of the race itself, so a
    change of the goal or the budget prepares nothing anew. A workload whose `data` has a third
    parameter, `seed`, draws a problem of its own for each trial's seed. The workload's module is
    imported only where something is to be made. None: the workload has no such split.
    """
    offered = discover.functions(definition.plugin)
    if split == PRETRAINED and PRETRAINED not in offered:
        return None
    race_only = ("goal", "horizon", "evaluate", "batch", "deadlines")
    numbers = {k: v for k, v in definition.block.items() if k not in race_only}
    drawn = (seed,) if "seed" in offered["data"] else ()
    known = digest(canonical(numbers), definition.source, *map(str, drawn))[:16]
    folder = cache_folder() / "prepared" / f"{definition.name}-{split}-{known}"
    while not (folder / "paths.json").exists():
        with locked(folder, elsewhere="HARNESS_CACHE=FOLDER in the environment") as mine:
            if not mine:  # another process is at it
                time.sleep(0.1)
                continue
            _make(definition, split, drawn, folder)
    return folder


def _make(definition: Definition, split: str, drawn: tuple, folder: Path) -> None:
    from safetensors.torch import save

    module = load_workload(definition)
    made = (
        module.pretrained(definition.config)
        if split == PRETRAINED
        else module.data(definition.config, split, *drawn)
    )
    tensors = {k: v.contiguous() for k, v in made.items() if not isinstance(v, Path)}
    atomic_write(folder / "tensors.safetensors", save(tensors))
    paths = {k: str(v) for k, v in made.items() if isinstance(v, Path)}
    atomic_write(folder / "paths.json", json.dumps(paths))  # last: it says that all is there


def open_data(folder: Path, device: str = "cpu") -> dict:
    """The split's tensors, memory-mapped (moved to the device if it is another), and its paths."""
    from safetensors.torch import load_file

    paths = {k: Path(v) for k, v in json.loads((folder / "paths.json").read_text()).items()}
    return load_file(folder / "tensors.safetensors", device=device) | paths
