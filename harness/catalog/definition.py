"""A workload: its file of pure functions and its block of numbers."""

import copy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

from harness import contract
from harness.catalog import declared, discover, identity, numbers
from harness.catalog.card import Card, Plugin
from harness.errors import NoScale, UserError, nearest
from harness.system.hashing import canonical, digest

# Seconds; workload.SCALE.deadlines.step=600 changes one.
DEADLINES = {"setup": 300.0, "step": 120.0, "save": 120.0}
# A block of the YAML that is not a scale: numbers of the laws' small workload.
TINY = "tiny"
FUNCTIONS = tuple(contract.parameters(contract.Workload))


def namespace(block):
    """Return a nested dictionary as attributes: config.model.width."""
    if isinstance(block, dict):
        return SimpleNamespace(**{k: namespace(v) for k, v in block.items()})
    return block


@dataclass(frozen=True)
class Definition:
    """The numbers of one workload at one scale and variant: what a record is a record of.

    Attributes:
        source: hash of the workload's code.
        place: path of the workload's file where its name does not find it, else empty.
    """

    name: str
    scale: str
    variant: str | None
    track: str
    block: dict
    source: str
    place: str = ""

    @property
    def plugin(self) -> Plugin:
        """Where the workload's file is."""
        return discover.find_workload(self.place or self.name)

    @property
    def frozen(self) -> Path:
        """The folder of its frozen references and, in `prices`, of its price tables.

        The project's workloads share results/reference; another's are beside its own file.
        """
        plugin = self.plugin
        if plugin.package == "workloads":
            return discover.ROOT / "results" / "reference"
        return plugin.path.with_name(f"{plugin.name}.reference")

    @property
    def config(self) -> SimpleNamespace:
        return namespace(self.block)

    @property
    def key(self) -> str:
        return f"{self.name}.{self.scale}" + (f".{self.variant}" if self.variant else "")

    @property
    def hash(self) -> str:
        """Version of the workload: any changed number or line of its code is another version."""
        # Deadlines change no result.
        kept = {k: v for k, v in self.block.items() if k != "deadlines"}
        return digest(self.key, canonical(kept), self.source)[:16]

    @property
    def training_hash(self) -> str:
        """As `hash`, whatever the goal's bounds: what a trial does does not depend on them.

        A finished trial is judged again, from its log, when only they have changed.
        """
        goal = {metric: sorted(bounds) for metric, bounds in self.block["goal"].items()}
        kept = {k: v for k, v in self.block.items() if k not in ("deadlines", "goal")}
        return digest(self.key, canonical(kept), canonical(goal), self.source)[:16]


def merge(block: dict, changes: dict, where: str) -> dict:
    """Return the block with a variant's changes; a goal is replaced as a whole."""
    merged = copy.deepcopy(block)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict) and key != "goal":
            merged[key] = merge(merged[key], value, f"{where}.{key}")
        else:
            merged[key] = value
    return merged


def numbers_path(plugin: Plugin) -> Path:
    """Return the path of a workload's YAML: conf/workload/NAME.yaml, else beside its own file."""
    if plugin.package == "workloads":
        return discover.ROOT / "conf" / "workload" / f"{plugin.name}.yaml"
    return plugin.path.with_suffix(".yaml")


def _whole_tree(name: str) -> dict:
    """Return the YAML of a workload's numbers, the block `tiny` included."""
    import yaml

    path = numbers_path(discover.find_workload(name))
    if not path.exists():
        raise UserError(f"workload {name} has no numbers: there is no {path}")
    try:
        # The loader in C gives the same values ten times as fast.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        tree = yaml.load(path.read_text(), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or not scales_of(tree):
        raise UserError(
            f"{path} has no scale",
            "a block of numbers such as mini:",
            "harness new workload my_problem",
        )
    numbers.check_tree(tree, path)
    return tree


def tree_of(name: str) -> dict:
    """Return the numbers of a workload by scale; `name` may be the path of its file.

    Raises:
        UserError: there is no such workload, or it has no numbers.
    """
    tree = _whole_tree(name)
    return {key: value for key, value in tree.items() if key != TINY} | {"name": name}


def tiny_of(name: str) -> dict | None:
    """Return the changes that make a workload small for the laws, or None if it has none."""
    path = numbers_path(discover.find_workload(name))
    # Most files have no such block; parsing them all would take half a second.
    if not path.exists() or f"\n{TINY}:" not in path.read_text():
        return None
    return _whole_tree(name)[TINY]


def allows_predictor(definition: Definition) -> bool:
    """Return True if the workload's inputs tell nothing of the labels.

    The file says so (`predict: true` outside of the scales), not the configuration: a setting on
    the command line cannot allow it.
    """
    return _whole_tree(definition.place or definition.name).get(numbers.PREDICT) is True


def forward_only(definition: Definition) -> bool:
    """Return True if the workload's file says that it offers forward passes only."""
    return _whole_tree(definition.place or definition.name).get(numbers.FORWARD_ONLY) is True


def draws_answers(definition: Definition) -> bool:
    """Return True if code drew what the training data must not tell, so it can be drawn again."""
    stated = _whole_tree(definition.place or definition.name).get(numbers.GENERATED, False)
    return definition.variant in stated if isinstance(stated, list) else stated is True


def places_of_data(definition: Definition) -> list[Path]:
    """Return folders that may hold the workload's validation data, beside the harness's cache.

    `hides` in its YAML names them: folders, and packages that may be installed.
    """
    places = []
    for name in _whole_tree(definition.place or definition.name).get(numbers.HIDES) or ():
        if name.startswith("/"):
            places.append(Path(name))
        elif spec := find_spec(name):
            places += [Path(folder) for folder in spec.submodule_search_locations or ()]
    return places


def scales_of(tree: dict) -> list[str]:
    """Return the scales of a workload's numbers, in the order of the file."""
    return [key for key, value in tree.items() if isinstance(value, dict) and key != TINY]


def define(name: str, tree: dict, scale: str, variant: str | None) -> Definition:
    """Return the numbers of one scale and variant out of the workload's YAML tree.

    Args:
        name: the workload's name, or the path of its file.

    Raises:
        UserError: the workload, the variant or a number does not exist or cannot be raced.
        NoScale: the workload does not have this scale.
    """
    plugin = discover.find_workload(name)
    scales = scales_of(tree)
    if scale not in scales:
        raise NoScale(
            f"workload {plugin.name} has no scale {scale!r}",
            nearest(scale, scales),
            f"scale={scales[0]}",
        )
    block = dict(tree[scale])
    variants = block.pop("variants", None) or {}
    if variant is not None:
        if variant not in variants:
            raise UserError(
                f"workload {plugin.name} has no variant {variant!r} at scale {scale}",
                nearest(variant, variants),
            )
        changes = {k: v for k, v in variants[variant].items() if k != "track"}
        block = merge(block, changes, f"{plugin.name}.{variant}")
    numbers.check_block(block, f"workload.{scale}")
    track = track_of(tree, scale, variant)
    place = "" if plugin.package else str(plugin.path)
    source = identity.source_hash(plugin)
    return Definition(plugin.name, scale, variant, track, block, source, place)


def split_variant(name: str) -> tuple[str, str | None]:
    """Return the workload and the variant of NAME.VARIANT, or of path/to/file.py:VARIANT."""
    separator = ":" if discover.is_path(name) else "."
    workload, _, variant = name.partition(separator)
    return workload, variant or None


def first_workload(card: Card, default: str = "", scale: str = "mini") -> str:
    """Return the default workload, or the first other one, that a submission can race on.

    Those of the core come before others.
    """
    tracks = discover.tracks(card)
    others = sorted(
        discover.workloads(), key=lambda name: _whole_tree(name).get("core") is not True
    )
    for name in filter(None, (default, *others)):
        tree = tree_of(name)
        if isinstance(tree.get(scale), dict) and track_of(tree, scale, None) in tracks:
            return name
    return default or others[0]


def track_of(tree: dict, scale: str, variant: str | None) -> str:
    """Return the kind of goal: the workload's, or a variant's own."""
    own = (tree[scale].get("variants") or {}).get(variant, {})
    return own.get("track", tree.get("track", "train"))


def require_functions(definition: Definition) -> None:
    """Raise UserError if a file of the user's own lacks a function; nothing is imported."""
    plugin = definition.plugin
    if plugin.package is not None:
        return
    defined = declared.names(plugin.path) | discover.functions(plugin).keys()
    if missing := [name for name in FUNCTIONS if name not in defined]:
        raise _lacking(plugin.name, missing)


def _lacking(name: str, missing: list[str]) -> UserError:
    return UserError(
        f"workload {name} lacks {', '.join(missing)}",
        f"a workload has {', '.join(FUNCTIONS)} (harness/contract.py)",
    )


def load_workload(definition: Definition) -> ModuleType:
    """Return the workload's module, imported, with every function of the contract.

    Raises:
        UserError: a function is missing.
    """
    module = discover.load(definition.plugin, "workload")
    if missing := [name for name in FUNCTIONS if not hasattr(module, name)]:
        raise _lacking(definition.name, missing)
    return module
