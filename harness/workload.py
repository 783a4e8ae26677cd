"""A workload: its file of pure functions, its block of numbers, its data on disk."""

import copy
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

from harness import discover, stream
from harness.errors import NoScale, UserError, nearest
from harness.files import atomic_write, locked

PRETRAINED = (
    "pretrained"  # function of workloads that start from trained weights; the split that keeps them
)
DEADLINES = {
    "setup": 300.0,
    "step": 120.0,
    "save": 120.0,
}  # seconds; workload.SCALE.deadlines.step=600 changes one
FUNCTIONS = ("data", "size", "batch", "model", "loss", "metric", "score")


def namespace(block):
    """A nested dictionary as attributes: config.model.width."""
    if isinstance(block, dict):
        return SimpleNamespace(**{k: namespace(v) for k, v in block.items()})
    return block


def cache_folder() -> Path:
    """Where downloads and prepared data are kept: $HARNESS_CACHE, or ~/.cache/harness."""
    return Path(os.environ.get("HARNESS_CACHE") or Path.home() / ".cache" / "harness").expanduser()


def canonical(value) -> str:
    """One JSON text per value, so that equal definitions have equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Definition:
    """The numbers of one workload at one scale and variant: what a record is a record of."""

    name: str
    scale: str
    variant: str | None
    track: str
    block: dict
    source: str  # hash of the workload's code

    @property
    def config(self) -> SimpleNamespace:
        return namespace(self.block)

    @property
    def key(self) -> str:
        return f"{self.name}.{self.scale}" + (f".{self.variant}" if self.variant else "")

    @property
    def hash(self) -> str:
        """Version of the workload: any changed number or line of its code is another version."""
        numbers = {
            k: v for k, v in self.block.items() if k != "deadlines"
        }  # these change no result
        return digest(self.key, canonical(numbers), self.source)[:16]

    @property
    def training_hash(self) -> str:
        """As `hash`, whatever the goal's bounds: what a trial does does not depend on them.

        A finished trial is judged again, from its log, when only they have changed.
        """
        goal = {metric: sorted(bounds) for metric, bounds in self.block["goal"].items()}
        numbers = {k: v for k, v in self.block.items() if k not in ("deadlines", "goal")}
        return digest(self.key, canonical(numbers), canonical(goal), self.source)[:16]


def _merge(block: dict, changes: dict, where: str) -> dict:
    merged = copy.deepcopy(block)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict) and key != "goal":
            merged[key] = _merge(merged[key], value, f"{where}.{key}")
        else:
            merged[key] = value
    return merged


def tree_of(name: str) -> dict:
    """The YAML of a workload's numbers: conf/workload/NAME.yaml.

    Raises:
        UserError: there is no such workload, or it has no numbers.
    """
    import yaml

    discover.find_workload(name)
    path = discover.ROOT / "conf" / "workload" / f"{name}.yaml"
    if not path.exists():
        raise UserError(f"workload {name} has no numbers: there is no {path}")
    return yaml.safe_load(path.read_text()) | {"name": name}


def define(name: str, tree: dict, scale: str, variant: str | None) -> Definition:
    """Pick the scale (and variant) out of the workload's YAML tree."""
    plugin = discover.find_workload(name)
    scales = [k for k, v in tree.items() if isinstance(v, dict)]
    if scale not in scales:
        raise NoScale(
            f"workload {name} has no scale {scale!r}", nearest(scale, scales), f"scale={scales[0]}"
        )
    block = dict(tree[scale])
    variants = block.pop("variants", None) or {}
    if variant is not None:
        if variant not in variants:
            raise UserError(
                f"workload {name} has no variant {variant!r} at scale {scale}",
                nearest(variant, variants),
            )
        changes = {k: v for k, v in variants[variant].items() if k != "track"}
        block = _merge(block, changes, f"{name}.{variant}")
    _check_block(block, f"workload.{scale}")
    track = track_of(tree, scale, variant)
    return Definition(name, scale, variant, track, block, discover.source_hash(plugin))


def track_of(tree: dict, scale: str, variant: str | None) -> str:
    """The kind of goal: the workload's, or a variant's own."""
    own = (tree[scale].get("variants") or {}).get(variant, {})
    return own.get("track", tree.get("track", "train"))


def _check_block(block: dict, where: str) -> None:
    """Refuse numbers that no race can be run with."""
    evaluate = block["evaluate"]
    counts = {"batch": block["batch"], "horizon": block["horizon"]}
    counts |= {f"evaluate.{key}": evaluate[key] for key in ("points", "batch")}
    for key, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{where}.{key}={value!r}", "a whole number from 1 up")
    if "stream" in block:
        stream.check(block, where)
    for metric, condition in block["goal"].items() or [("", None)]:
        if (
            not isinstance(condition, dict)
            or not condition
            or set(condition) - {"at_most", "at_least"}
        ):
            raise UserError(
                f"{where}.goal: {metric!r} is {condition!r}",
                "metrics with {at_most: X} or {at_least: X}",
            )
        if any(
            isinstance(bound, bool) or not isinstance(bound, int | float)
            for bound in condition.values()
        ):
            raise UserError(f"{where}.goal.{metric}: {condition} is no bound", "a number")
    for key, value in block.get("deadlines", {}).items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise UserError(f"{where}.deadlines.{key}={value!r}", "seconds above 0")


def load(definition: Definition) -> ModuleType:
    """Import the workload's module and check that it has every function of the contract."""
    module = discover.load(discover.find_workload(definition.name))
    missing = [f for f in FUNCTIONS if not hasattr(module, f)]
    if missing:
        raise UserError(
            f"workload {definition.name} lacks {', '.join(missing)}",
            f"a workload has {', '.join(FUNCTIONS)}",
        )
    return module


def prepare(definition: Definition, split: str, seed: int = 0) -> Path | None:
    """Make the split's data once and return its folder: `tensors.safetensors` and `paths.json`.

    The folder's name is a hash of the code and of all numbers but those of the race itself, so a
    change of the goal or the budget prepares nothing anew. A workload whose `data` has a third
    parameter, `seed`, draws a problem of its own for each trial's seed. The workload's module is
    imported only where something is to be made. None: the workload has no such split.
    """
    offered = discover.functions(discover.find_workload(definition.name))
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

    module = load(definition)
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


def primary(goal: dict) -> tuple[str, str, float]:
    """The goal's first condition: metric, direction (at_most or at_least), bound."""
    metric, condition = next(iter(goal.items()))
    direction, bound = next(iter(condition.items()))
    return metric, direction, bound


def meets(goal: dict, metrics: dict) -> bool:
    """True when every condition of the goal holds; a missing or non-finite value holds nothing."""
    for metric, condition in goal.items():
        value = metrics.get(metric)
        for direction, bound in condition.items():
            if value is None or not (value <= bound if direction == "at_most" else value >= bound):
                return False
    return True
