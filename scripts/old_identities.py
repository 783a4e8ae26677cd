"""Identities as they were up to 0.1.0, and what each of them is now; scripts/rekey.py uses both.

The old identity of a plugin was over the bytes of its files, that of a step over `ast.dump`, which
differs between Python versions. scripts/identities_v1.json keeps the old ones of all that was
shipped, so that they are known after a comment has changed.
"""

import ast
import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from harness.catalog import definition, discover, identity, places
from harness.catalog.card import Plugin
from harness.catalog.definition import Definition
from harness.catalog.reading import tree
from harness.errors import UserError
from harness.system import hashing
from harness.system.files import read_json
from harness.system.paths import ROOT

KEPT = ROOT / "scripts" / "identities_v1.json"
PRICES = ROOT / "results" / "reference" / "prices"
# The Python version whose `ast.dump` the old step hashes are of.
PYTHON = (3, 11)


@dataclass(frozen=True)
class Change:
    """An identity before and after."""

    old: str
    new: str


class Stop(Exception):
    """An old id that cannot be derived."""


@dataclass
class Keys:
    """What changes: price tables by name, runs by old id; and a count of what was seen."""

    tables: dict[str, Change] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)

    def prices(self, named: str) -> str:
        """Return what names a price table, with the table's new hash."""
        name, _, stated = named.partition(" ")
        change = self.tables.get(name)
        return f"{name} {change.new}" if change and stated == change.old else named


# The old functions


def source_hash(plugin: Plugin) -> str:
    """Return the old hash of a plugin's source files."""
    contents = contents_of(discover.sources(plugin))
    parts = [(str(places.inside(plugin, path)), content) for path, content in contents.items()]
    return identity.hash_of(parts + ([(plugin.name, b"")] if plugin.variant else []))


def contents_of(paths: Collection[Path]) -> dict[Path, bytes]:
    """Return the bytes of files without the lines of literals that describe a method."""
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


def _describes(node: ast.stmt, mentioned: Collection[str]) -> bool:
    if not isinstance(node, ast.Assign) or len(node.targets) != 1:
        return False
    target = node.targets[0]
    if not isinstance(target, ast.Name) or target.id not in identity.DESCRIBING:
        return False
    try:
        ast.literal_eval(node.value)
    except ValueError:
        return False
    return target.id not in mentioned


def _mentions(parsed: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(parsed):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.alias):
            names.add(node.name)
        elif isinstance(node, ast.Constant) and node.value in identity.DESCRIBING:
            names.add(node.value)
    return names & {*identity.DESCRIBING}


def step_hash(one: Definition) -> str:
    """Return the old hash of a workload's step."""
    parts = []
    for path in discover.sources(one.plugin):
        if "data" not in places.inside(one.plugin, path).parts:
            parsed = ast.parse(path.read_text())
            for node in ast.walk(parsed):
                body = getattr(node, "body", None)
                if isinstance(body, list):
                    body[:] = [n for n in body if not _off_step(n)]
            parts.append(ast.dump(parsed))
    shapes = {k: v for k, v in one.block.items() if k not in identity.RACE_ONLY}
    return hashing.digest(one.name, hashing.canonical(shapes), *parts)[:16]


def _off_step(node: ast.stmt) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.FunctionDef) and node.name in identity.OFF_STEP


# What was, and what is


@cache
def kept() -> dict[str, dict]:
    """Return the old identities of what was shipped: submissions, sources, steps."""
    return json.loads(KEPT.read_text())


@cache
def submission(name: str) -> Change | None:
    """Return the identities of a shipped submission, or None if none was shipped by that name."""
    plugin, old = discover.submissions().get(name), kept()["submissions"].get(name)
    return Change(old, identity.source_hash(plugin)) if plugin and old else None


@cache
def workload_source(name: str) -> Change | None:
    """Return the identities of a shipped workload's code."""
    plugin, old = discover.workloads().get(name), kept()["sources"].get(name)
    return Change(old, identity.source_hash(plugin)) if plugin and old else None


@cache
def present(name: str, scale: str, variant: str | None) -> Definition | None:
    """Return a workload's numbers as they are now, or None if it does not exist."""
    try:
        return definition.define(name, definition.tree_of(name), scale, variant)
    except UserError:
        return None


def workload(one: Definition) -> dict[str, Change] | None:
    """Return the hash and the training hash of a workload before and after."""
    source = workload_source(one.name)
    if source is None:
        return None
    old, new = (replace(one, source=each) for each in (source.old, source.new))
    return {
        "workload_hash": Change(old.hash, new.hash),
        "training_hash": Change(old.training_hash, new.training_hash),
    }


def step(one: Definition) -> Change | None:
    """Return the hash of a shipped workload's step before and after."""
    old = kept()["steps"].get(one.key)
    return Change(old, identity.step_hash(one)) if old else None


def shipped_tables() -> dict[str, Change]:
    """Return the hashes of the project's price tables before and after, by file name."""
    old = kept()["tables"]
    new = {path.name: read_json(path)["hash"] for path in sorted(PRICES.glob("*.json"))}
    return {name: Change(old[name], new[name]) for name in old.keys() & new.keys()}


def derived() -> dict[str, dict]:
    """Return the old identities of all that is here, derived with the old functions."""
    submissions = {name: source_hash(one) for name, one in discover.submissions().items()}
    sources = {name: source_hash(one) for name, one in discover.workloads().items()}
    steps = {}
    for name in sources:
        numbers = definition.tree_of(name)
        for scale in definition.scales_of(numbers):
            for variant in (None, *(numbers[scale].get("variants") or {})):
                one = definition.define(name, numbers, scale, variant)
                steps[one.key] = step_hash(one)
    return {"submissions": submissions, "sources": sources, "steps": steps}


# A record


def definition_of(key: str):
    """Return the workload of a key NAME.SCALE[.VARIANT].

    Raises:
        Stop: there is no such workload.
    """
    name, scale, *variant = key.split(".")
    found = present(name, scale, variant[0] if variant else None)
    if found is None:
        raise Stop(f"workload {key} does not exist")
    return found


def rekey(
    record: dict, keys: Keys, engine: dict, where: str, source: Change | None = None
) -> dict | None:
    """Return a record with new ids, in the old order of its fields; None if it has them already.

    Args:
        engine: what the run was trained with, where the record does not say.
        source: the submission's hashes, where they are known from elsewhere than its name.

    Raises:
        Stop: its run id is not what its fields give.
    """
    if record["run_id"] != _run_id(record, engine):
        raise Stop(f"{where}: run {record['run_id']} is not what its fields give")
    new = dict(record)
    one = present(record["workload"], record["scale"], record["variant"])
    block = record.get("config") or (one and one.block | {"goal": record["goal"]})
    changes = one and workload(replace(one, block=block))
    if changes and all(record[name] == each.new for name, each in changes.items()):
        keys.counts["runs that are new already"] += 1
        return None
    if changes and all(record[name] == each.old for name, each in changes.items()):
        new |= {name: each.new for name, each in changes.items()}
    else:
        keys.counts["runs of another version of their workload"] += 1
    source = source or submission(record["submission"])
    if source and record["submission_hash"] == source.old:
        new["submission_hash"] = source.new
    else:
        keys.counts["runs of a source that is not here"] += 1
    if "prices" in record:
        new["prices"] = keys.prices(record["prices"])
    new["run_id"] = keys.runs[record["run_id"]] = _run_id(new, engine)
    keys.counts["runs"] += 1
    return new


def _run_id(record: dict, engine: dict) -> str:
    names = ("training_hash", "submission_hash", "hp", "seed", "horizon", "isolation")
    parts = {name: record[name] for name in names}
    return identity.run_id(**parts, engine=record.get("engine", engine), race=record["harness"])
