"""Find submissions and workloads by folder, entry point or path, and read what they declare.

A plugin is one file; its stem is its name. Reading is by `ast`, so listing a hundred plugins costs
milliseconds and never runs their code.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import contract
from harness.catalog import declared, modules, reading
from harness.catalog.card import Card, Plugin
from harness.catalog.places import file_of, is_path
from harness.catalog.reading import ENTRY_POINTS, WORKLOAD_ENTRY_POINTS, roots
from harness.errors import UserError, nearest
from harness.system.paths import ROOT

# What `restrict` was given.
_restricted: list[dict[str, Plugin]] = []
LIST = "harness list"
TRACKS = ("train", "finetune", "compress", "continual", "game")


def _folder(folder: Path, package: str) -> dict[str, Plugin]:
    found: dict[str, Plugin] = {}
    for path in sorted(folder.rglob("*.py")):
        if path.stem.startswith("_"):
            continue
        inner = path.relative_to(folder).parent.parts
        for name in (path.stem, *declared.variants(path)):
            if name in found:
                raise UserError(
                    f"two plugins are named {name!r}: {found[name].path} and {path}",
                    "a name is unique over all folders",
                    "rename one of them",
                )
            found[name] = Plugin(name, path, "/".join(inner), ".".join((package, *inner)))
    return found


@cache
def submissions() -> dict[str, Plugin]:
    """Return all submissions by name: the shipped folders, then packages of the entry point.

    In a confined process they are those that `restrict` was given.
    """
    if _restricted:
        return _restricted[-1]
    found = _folder(ROOT / "submissions", "submissions")
    for entry, folder in _packages(ENTRY_POINTS, "submissions"):
        for name, plugin in _folder(folder, entry.value).items():
            if name in found:
                message = f"package {entry.name!r} brings a submission {name!r} that exists already"
                raise UserError(f"{message}: {found[name].path}", do="rename one of them")
            found[name] = plugin
    return found


def _packages(group: str, what: str) -> Iterator[tuple[EntryPoint, Path]]:
    """Yield each entry point of a group with the folder of the package that it names."""
    for entry in entry_points(group=group):
        parts = entry.value.split(".")
        folder = roots().get(parts[0], Path()).joinpath(*parts)
        if parts[0] not in roots() or not folder.is_dir():
            raise UserError(
                f"package {entry.name!r} offers {what} in {entry.value!r}: no package",
                do="install it again, or uninstall it",
            )
        yield entry, folder


@cache
def workloads() -> dict[str, Plugin]:
    """Return all workloads by name: the shipped folder, then packages of the entry point.

    A shipped one is a Python file in workloads/ with a YAML in conf/workload/; one of a package is
    a Python file with its YAML beside it.
    """
    found = {
        path.stem: Plugin(path.stem, path, "", "workloads")
        for path in sorted((ROOT / "workloads").glob("*.py"))
        if not path.stem.startswith("_")
    }
    for entry, folder in _packages(WORKLOAD_ENTRY_POINTS, "workloads"):
        for path in sorted(folder.glob("*.py")):
            if not path.with_suffix(".yaml").is_file():
                continue
            if path.stem in found:
                message = f"package {entry.name!r} brings a workload {path.stem!r} that exists"
                raise UserError(f"{message}: {found[path.stem].path}", do="rename one of them")
            found[path.stem] = Plugin(path.stem, path, "", entry.value)
    return found


def find(name: str) -> Plugin:
    """Return the submission called `name`, or the one in the file at path `name`.

    `./file.py:variant` is a variant of a file, `./folder` is the file folder/folder.py.

    Raises:
        UserError: there is none.
    """
    if is_path(name):
        place, _, variant = name.rpartition(":") if ".py:" in name else (name, "", "")
        path = file_of(place, "submission")
        for plugin in submissions().values():
            if plugin.path == path and plugin.name == (variant or path.stem):
                return plugin
        if variant and variant not in (names := declared.variants(path)):
            raise UserError(f"{place} has no variant {variant!r}", nearest(variant, names))
        return Plugin(variant or path.stem, path, "", None)
    if "." in name:
        head = name.partition(".")[0]
        if not head or (find_spec(head) is None and head in workloads()):
            raise unknown(name, "submission", submissions())
        from harness.catalog import optimizer_classes

        # package.Class+NAME: the submission NAME takes the parameters that the class does not.
        target, _, fallback = name.partition("+")
        file = find(fallback).path if fallback else Path(optimizer_classes.__file__)
        return Plugin(name, file, "class", None, target)
    if name not in submissions():
        raise unknown(name, "submission", submissions())
    return submissions()[name]


def find_any(name: str) -> Plugin:
    """Return the submission called `name`, where a workload's name would do as well.

    Raises:
        UserError: there is no plugin of the name.
    """
    if not is_path(name) and "." not in name and name not in submissions():
        raise unknown(name, "", [*submissions(), *workloads()])
    return find(name)


def unknown(name: str, what: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that no plugin has; it finds a file here of that name.

    Args:
        what: submission or workload; "" where both would do.
    """
    problem = f"no {what} is called {name!r}" if what else f"nothing is called {name!r}"
    beside = name if Path(name).is_dir() else f"{name}.py"
    if name.strip(".") and Path(beside).exists():
        return UserError(problem, do=f"./{beside} is the one that lies here")
    workload, _, rest = name.partition(".")
    if rest and workload in workloads():
        return UserError(
            problem,
            "scale= and variant= choose among a workload's numbers",
            f"harness show {workload}",
        )
    return UserError(problem, nearest(name, known), f"harness list {what}s" if what else LIST)


def find_workload(name: str) -> Plugin:
    """Return the workload called `name`, or the one in the file at path `name`.

    Raises:
        UserError: there is none, or a file has the name of another workload.
    """
    if is_path(name):
        path = file_of(name, "workload")
        known = workloads().get(path.stem)
        if known and known.path == path:
            return known
        if known:
            raise UserError(
                f"{path} has the name of another workload, {known.path}",
                do="give your file another name",
            )
        return Plugin(path.stem, path, "", None)
    if name not in workloads():
        raise unknown(name, "workload", workloads())
    return workloads()[name]


def is_workload(name: str) -> bool:
    """Return True if `name` is a workload's, or the path of a file that defines one."""
    if not is_path(name):
        return name in workloads() and name not in submissions()
    path = file_of(name.partition(".py:")[0] + ".py" if ".py:" in name else name, "submission")
    names = declared.names(path) | reading.functions(path, path.parent).keys()
    if names & declared.FORMS.keys():
        return False
    return names >= {*contract.parameters(contract.Workload)} or path.with_suffix(".yaml").is_file()


def tracks(card: Card) -> list[str]:
    """Return the tracks a submission races on: as declared, else every one for an optimizer.

    An optimizer on a fine-tuning or continual workload trains all weights, as full and finetune do.
    """
    optimizer = card.form in ("a", "b") and "adapt" not in card.functions
    return card.literals.get("TRACKS", list(TRACKS) if optimizer else ["train"])


@cache
def functions(plugin: Plugin) -> dict[str, list[str]]:
    """Return a plugin's functions, those it imports by name too, and their parameters' names."""
    return reading.functions(plugin.path, plugin.base)


@cache
def read(plugin: Plugin) -> Card:
    """Return a submission's docstring, literals and functions.

    Raises:
        UserError: the file is not a submission, or not a valid one.
    """
    if plugin.target:
        from harness.catalog import optimizer_classes

        summary = optimizer_classes.summary(plugin.target)
        space = optimizer_classes.space(plugin.target, plugin.name.partition("+")[2])
        literals = {"SPACE": space} | optimizer_classes.passes(plugin.target)
        return Card(plugin, summary, "a", literals, frozenset({"optimizer"}))
    card = declared.card_of(plugin, sources(plugin))
    for literal, known in (
        ("TRACKS", TRACKS),
        ("FALLBACK", submissions()),
        ("BASE", submissions()),
    ):
        value = card.literals.get(literal, [])
        for name in [value] if isinstance(value, str) else value:
            if name not in known:
                raise UserError(
                    f"{plugin.path}: {literal} names {name!r}", nearest(str(name), known)
                )
    return card


def sources(plugin: Plugin) -> list[Path]:
    """Return the plugin's file and every plugin's file that it imports or names, at any depth.

    Of a plugin outside of a package, the files in its folder that it imports are among them.
    """
    seen, todo = set(), [plugin.path]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            inside = plugin.base and path.is_relative_to(plugin.base)
            base = plugin.base if inside else None
            todo += reading.imported(path, base)
            named = reading.literals(path, ("FALLBACK", "BASE"), base).values()
            todo += [submissions()[name].path for name in named if name in submissions()]
            # A package's own code is hashed, and so is what it imports.
            todo += [file for file in reading.package_files(path) if reading.has_code(file)]
    return sorted(seen)


def readable(plugin: Plugin) -> list[Path]:
    """Return the files that a confined process must read to import the plugin."""
    files = sources(plugin)
    return sorted({*files, *(init for path in files for init in reading.package_files(path))})


def described(plugin: Plugin) -> list[dict[str, Any]]:
    """Return the submissions of the plugin's files as plain data, for `restrict`."""
    files = sources(plugin)
    return [asdict(p) | {"path": str(p.path)} for p in submissions().values() if p.path in files]


def restrict(described: list[dict[str, Any]]) -> None:
    """Let `submissions` return these alone: a confined process cannot read the others."""
    known = {fields["name"]: Plugin(**fields) for fields in described}
    _restricted.append({name: replace(p, path=Path(p.path)) for name, p in known.items()})
    submissions.cache_clear()


def load(plugin: Plugin, what: str = "submission") -> ModuleType:
    """Import the plugin's module; this runs its code.

    Args:
        what: the kind of plugin, for the module's name where it is a file of its own.
    """
    if plugin.target:
        from harness.catalog import optimizer_classes

        return optimizer_classes.module(plugin.target)
    if plugin.package:
        return modules.load_packaged(f"{plugin.package}.{plugin.path.stem}", plugin.path)
    name = re.sub(r"\W", "_", f"{what}_{plugin.name}")
    return modules.load_files(name, plugin.path, sources(plugin))
