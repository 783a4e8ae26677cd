"""A workload: its file of pure functions, its block of numbers, its data on disk."""

import copy
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

from harness import contract
from harness.catalog import discover, identity, streams
from harness.errors import NoScale, UserError, nearest
from harness.system.hashing import canonical, digest

DEADLINES = {
    "setup": 300.0,
    "step": 120.0,
    "save": 120.0,
}  # seconds; workload.SCALE.deadlines.step=600 changes one
FUNCTIONS = tuple(contract.parameters(contract.Workload))


def namespace(block):
    """A nested dictionary as attributes: config.model.width."""
    if isinstance(block, dict):
        return SimpleNamespace(**{k: namespace(v) for k, v in block.items()})
    return block


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
    return Definition(name, scale, variant, track, block, identity.source_hash(plugin))


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
        streams.check(block, where)
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


def load_workload(definition: Definition) -> ModuleType:
    """Import the workload's module and check that it has every function of the contract."""
    module = discover.load(discover.find_workload(definition.name))
    missing = [f for f in FUNCTIONS if not hasattr(module, f)]
    if missing:
        raise UserError(
            f"workload {definition.name} lacks {', '.join(missing)}",
            f"a workload has {', '.join(FUNCTIONS)}",
        )
    return module
