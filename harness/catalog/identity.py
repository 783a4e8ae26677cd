"""What is hashed of a plugin: its source, and the code and shapes of a workload's step."""

import ast
import hashlib
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from harness.catalog import discover
from harness.catalog.card import Plugin
from harness.catalog.discover import sources
from harness.catalog.reading import tree
from harness.system import hashing

if TYPE_CHECKING:
    from harness.catalog.definition import Definition


# Literals that describe a file. BADGE and STATE are in no file now, but in sources that runs keep.
DESCRIBING = ("BADGE", "STATE", "SKIPS", "VARIANTS")


def source_hash(plugin: Plugin) -> str:
    """sha256 over the plugin's source files: their names inside the project and their bytes.

    Lines that only describe a method (BADGE, STATE, ...) do not count: `source.identity` says why.
    Of a class it is over its path, its package's name and its version.
    """
    if plugin.target:
        from harness.catalog import optimizer_classes

        return hash_of([(plugin.target, optimizer_classes.release(plugin.target).encode())])
    parts = []
    for path, content in identity(sources(plugin)).items():
        parts.append((str(discover.inside(plugin, path)), content))
    if plugin.variant:  # its values are among the hyperparameters; it is a run of its own
        parts.append((plugin.name, b""))
    return hash_of(parts)


def hash_of(parts: Iterable[tuple[str, bytes]]) -> str:
    """sha256 over (name, content) of source files, in this order."""
    digest = hashlib.sha256()
    for name, content in parts:
        digest.update(f"{name}\0".encode() + content + b"\0")
    return digest.hexdigest()


def identity(paths: Collection[Path]) -> dict[Path, bytes]:
    """The bytes of files that decide what they do: all but the lines of DESCRIBING literals.

    A badge is earned, and a state word measured, after a method has been raced; writing them down
    must not make another method of it, whose finished runs are void. Such a line is left out only
    where it is a literal alone on its lines, and where no code in the files mentions its name.
    """
    trees = {path: tree(path) for path in paths}
    mentioned = {name for parsed in trees.values() for name in _mentions(parsed)}
    kept = {}
    for path, parsed in trees.items():
        lines = path.read_bytes().splitlines(keepends=True)
        spans = {node: range(node.lineno - 1, node.end_lineno or 0) for node in parsed.body}
        for node, span in spans.items():
            if _describes(node, mentioned) and not any(
                other is not node and {*span} & {*lines_of} for other, lines_of in spans.items()
            ):
                for line in span:
                    lines[line] = b""
        kept[path] = b"".join(lines)
    return kept


def _describes(node: ast.stmt, mentioned: Collection[str]) -> TypeGuard[ast.Assign]:
    """Whether a statement gives a literal to a DESCRIBING name that no code mentions."""
    if not isinstance(node, ast.Assign) or len(node.targets) != 1:
        return False
    target = node.targets[0]
    if not isinstance(target, ast.Name) or target.id not in DESCRIBING or target.id in mentioned:
        return False
    try:
        ast.literal_eval(node.value)
    except ValueError:
        return False
    return True


@cache
def _mentions(parsed: ast.Module) -> set[str]:
    """DESCRIBING names that code reads, imports, or takes of another module."""
    found = set()
    for node in ast.walk(parsed):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.add(node.name)
        elif isinstance(node, ast.Constant) and node.value in DESCRIBING:  # globals()["STATE"]
            found.add(node.value)
    return found & set(DESCRIBING)


RACE_ONLY = ("goal", "horizon", "evaluate", "deadlines", "data")
OFF_STEP = ("data", "size", "tokens", "batch", "metric", "score")


def step_hash(definition: "Definition") -> str:
    """Version of what a step computes: the workload's passes, model and shapes; no comments."""
    parts = []
    for path in discover.sources(definition.plugin):
        if "data" not in discover.inside(definition.plugin, path).parts:
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                body = getattr(node, "body", None)
                if isinstance(body, list):
                    body[:] = [n for n in body if not _off_step(n)]
            parts.append(ast.dump(tree))
    shapes = {k: v for k, v in definition.block.items() if k not in RACE_ONLY}
    return hashing.digest(definition.name, hashing.canonical(shapes), *parts)[:16]


def _off_step(node: ast.stmt) -> bool:
    """A docstring, or a function of the workload that no pass calls."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.FunctionDef) and node.name in OFF_STEP
