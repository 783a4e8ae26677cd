"""Identities: what a plugin's code does, what a workload's step computes, and which run a trial is.

A plugin's identity is its syntax, not its text: comments, docstrings, formatting and literals that
only describe it may change without voiding a run. Any other change is another method. The text of
a syntax tree is the same on every Python version; `ast.dump` and `ast.unparse` are not.
"""

import ast
import hashlib
from collections.abc import Callable, Collection, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.catalog import discover, places
from harness.catalog.card import Plugin
from harness.catalog.reading import tree
from harness.system import hashing

if TYPE_CHECKING:
    from harness.catalog.definition import Definition

# The version of what training does. It is raised when a trial would train differently, and only
# then: a release of the package voids no run.
RACE = "0.1.0"

# Literals that describe a file. BADGE and STATE are in no file now, but in sources that runs keep.
DESCRIBING = ("BADGE", "STATE", "SKIPS", "VARIANTS")
# Names by which code can read docstrings or source text, also those of another file.
READ_TEXT = (
    "__doc__", "inspect", "getsource", "linecache", "tokenize", "__code__", "_getframe",
    "tb_lineno", "__loader__",
)  # fmt: skip
OWN_FILE = "__file__"
# Fields of syntax nodes that say nothing of what code does, or differ between Python versions.
LEFT_OUT = ("ctx", "kind", "type_comment", "type_ignores")

# Numbers of a workload that no step depends on, and functions that no step calls.
RACE_ONLY = ("goal", "horizon", "evaluate", "deadlines", "data")
OFF_STEP = ("data", "size", "tokens", "batch", "metric", "score")


# Plugins


def source_hash(plugin: Plugin) -> str:
    """Return the hash of the plugin's source files: their names inside the project, their syntax.

    Of an installed class it is the hash of its path, its package's name and its version.
    """
    if plugin.target:
        from harness.catalog import optimizer_classes

        parts = [(plugin.target, optimizer_classes.release(plugin.target).encode())]
        if plugin.name == plugin.target:
            return hash_of(parts)
    else:
        parts = []
    contents = identity(discover.sources(plugin))
    # Ordered by the place inside the project or the plugin's folder, wherever that folder is.
    where = sorted((places.inside(plugin, path), path) for path in contents)
    parts += [(str(place), contents[path]) for place, path in where]
    # A variant's values are among the hyperparameters; it is a run of its own.
    if plugin.variant:
        parts.append((plugin.name, b""))
    return hash_of(parts)


def hash_of(parts: Iterable[tuple[str, bytes]]) -> str:
    """Return the sha256 over (name, content) of source files, in this order."""
    digest = hashlib.sha256()
    for name, content in parts:
        digest.update(f"{name}\0".encode() + content + b"\0")
    return digest.hexdigest()


def identity(paths: Collection[Path]) -> dict[Path, bytes]:
    """Return what is hashed of each file: the text of its syntax, or its bytes.

    A badge is earned after a method has been raced; describing it must not make another method of
    it. A description is left out only where no code in the files mentions its name. A file that
    mentions `__file__` is hashed by its bytes; all are, where one of them can read texts.
    """
    trees = {path: tree(path) for path in paths}
    mentioned = frozenset[str]().union(*map(_mentions, trees.values()))
    texts_read = bool(mentioned & {*READ_TEXT})
    return {
        path: b"bytes\0" + path.read_bytes()
        if texts_read or OWN_FILE in _mentions(parsed)
        else _described_text(parsed, mentioned & {*DESCRIBING}).encode()
        for path, parsed in trees.items()
    }


@cache
def _described_text(parsed: ast.Module, mentioned: frozenset[str]) -> str:
    return text_of(parsed, lambda node: _describes(node, mentioned))


def _describes(node: ast.stmt, mentioned: Collection[str]) -> bool:
    """Return True if a statement gives a literal to a DESCRIBING name that no code mentions."""
    if not isinstance(node, ast.Assign) or len(node.targets) != 1:
        return False
    target = node.targets[0]
    if not isinstance(target, ast.Name) or target.id not in DESCRIBING or target.id in mentioned:
        return False
    try:
        ast.literal_eval(node.value)
    except (ValueError, TypeError):
        return False
    return True


@cache
def _mentions(parsed: ast.Module) -> frozenset[str]:
    """Return the names that decide what is hashed and that code reads, imports or spells out."""
    names: set[str] = set()
    for node in ast.walk(parsed):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.alias):
            names |= {*node.name.split(".")}
        elif isinstance(node, ast.ImportFrom):
            names |= {*(node.module or "").split(".")}
        # globals()["STATE"], getattr(module, "__doc__")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return frozenset(names & {*DESCRIBING, *READ_TEXT, OWN_FILE})


# Syntax trees


def text_of(parsed: ast.AST, dropped: Callable[[ast.stmt], bool] = lambda node: False) -> str:
    """Return one text per meaning of a syntax tree, the same on every Python version.

    Left out are positions, docstrings (and other constants that stand alone), fields that are empty
    or in LEFT_OUT, and the `dropped` statements. Fields are in the order of their names.
    """
    pieces: list[str] = []
    # A stack instead of recursion: a long sum is a deep tree. Strings on it are finished text.
    stack: list = [parsed]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            pieces.append(item)
        else:
            stack += reversed(_expanded(item, dropped))
    return "".join(pieces)


def _expanded(item: ast.AST | list, dropped: Callable[[ast.stmt], bool]) -> list:
    """Return a node or a list as finished text, and nodes and lists to expand."""
    if isinstance(item, list):
        return ["[", *(part for each in item for part in (_leaf(each), ",")), "]"]
    parts: list = [type(item).__name__, "("]
    for name in sorted(item._fields):
        value = getattr(item, name, None)
        if isinstance(value, list):
            value = [each for each in value if not _idle(each) and not _is_dropped(each, dropped)]
            if isinstance(item, ast.JoinedStr):
                value = _joined(value)
        is_constant = isinstance(item, ast.Constant)
        if name not in LEFT_OUT and (is_constant or (value is not None and value != [])):
            parts += [f"{name}=", _leaf(value), ","]
    return [*parts, ")"]


def _is_dropped(node, dropped: Callable[[ast.stmt], bool]) -> bool:
    return isinstance(node, ast.stmt) and dropped(node)


def _idle(node) -> bool:
    """Return True for a statement that is a constant alone: a docstring, mostly."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """Return the parts of an f-string with neighbouring constants merged: versions split them."""
    merged: list[ast.expr] = []
    for node in values:
        last = merged[-1] if merged else None
        if isinstance(node, ast.Constant) and isinstance(last, ast.Constant):
            merged[-1] = ast.Constant(f"{last.value}{node.value}")
        elif not isinstance(node, ast.Constant) or node.value:
            merged.append(node)
    return merged


def _leaf(value):
    """Return a constant or a name as finished text; a node or a list as it is."""
    if isinstance(value, ast.AST | list):
        return value
    # `ascii` of a whole number fails beyond 4,300 digits.
    # `ascii` of text does not depend on the Unicode version.
    return hex(value) if type(value) is int else ascii(value)


# Workloads


def step_hash(definition: "Definition") -> str:
    """Return the version of what a step computes: the workload's passes, model and shapes."""
    plugin = definition.plugin
    paths = [path for path in discover.sources(plugin) if "data" not in _inside(plugin, path)]
    # Bytes where `identity` takes bytes, for its reasons.
    texts = [
        content.decode("utf-8", "replace")
        if content.startswith(b"bytes\0")
        else _step_text(tree(path))
        for path, content in identity(paths).items()
    ]
    shapes = {k: v for k, v in definition.block.items() if k not in RACE_ONLY}
    return hashing.digest(definition.name, hashing.canonical(shapes), *texts)[:16]


def _inside(plugin: Plugin, path: Path) -> tuple[str, ...]:
    return places.inside(plugin, path).parts


@cache
def _step_text(parsed: ast.Module) -> str:
    return text_of(parsed, _off_step)


def _off_step(node: ast.stmt) -> bool:
    """Return True for a function of the workload that no pass calls."""
    return isinstance(node, ast.FunctionDef) and node.name in OFF_STEP


# Runs


def run_id(
    training_hash: str,
    submission_hash: str,
    hp: dict,
    seed: int,
    engine: dict,
    horizon: int,
    isolation: str,
    race: str = RACE,
    key: str = "",
) -> str:
    """Return the id of a run: equal for trials that would train, and be confined, alike.

    Args:
        key: the fingerprint of a referee's own key, whose data are others (key.py).
    """
    parts = {
        "workload": training_hash,
        "submission": submission_hash,
        "hp": hp,
        "seed": seed,
        "engine": engine,
        "horizon": horizon,
        "harness": race,
    }
    # A run in another isolation proves more, or less: it is another run.
    if isolation != "process":
        parts["isolation"] = isolation
    if key:
        parts["key"] = key
    return hashing.digest(hashing.canonical(parts))[:16]
