"""Find submissions and workloads by folder, entry point or path, and read what they declare.

A plugin is one file; its stem is its name. Reading is by `ast`, so listing a hundred plugins costs
milliseconds and never runs their code.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from harness.catalog import modules, reading
from harness.catalog.card import Card, Plugin
from harness.catalog.reading import ENTRY_POINTS, WORKLOAD_ENTRY_POINTS, roots
from harness.catalog.space import check
from harness.errors import UserError, nearest
from harness.system.paths import ROOT

LITERALS = (
    "SPACE",
    "HANDLES",
    "FALLBACK",
    "BASE",
    "ELEMENTWISE",
    "PASSES",
    "TRACKS",
    "SKIPS",
    "VARIANTS",
)
# Literals that files had until 0.1.0, and what took their place.
RETIRED = {
    "BADGE": "badges are read off the project's tests: results/methods.json",
    "STATE": "the state that a method keeps is measured: state_bytes in its records",
}
TRACKS = ("train", "finetune", "compress", "continual")
FORMS = {"optimizer": "a", "update": "b", "BASE": "b", "Algorithm": "c"}


def _folder(folder: Path, package: str) -> dict[str, Plugin]:
    found: dict[str, Plugin] = {}
    for path in sorted(folder.rglob("*.py")):
        if path.stem.startswith("_"):
            continue
        inner = path.relative_to(folder).parent.parts
        for name in (path.stem, *_variants(path)):
            if name in found:
                raise UserError(
                    f"two plugins are named {name!r}: {found[name].path} and {path}",
                    "a name is unique over all folders",
                    "rename one of them",
                )
            found[name] = Plugin(name, path, "/".join(inner), ".".join((package, *inner)))
    return found


def _variants(path: Path) -> dict[str, dict]:
    """The file's VARIANTS: names, each with its fixed hyperparameters."""
    if b"VARIANTS" not in path.read_bytes():  # spares the parsing of a hundred files
        return {}
    found = reading.literals(path, ("VARIANTS",)).get("VARIANTS", {})
    for name, values in found.items() if isinstance(found, dict) else [(found, None)]:
        if not (isinstance(name, str) and name.isidentifier() and isinstance(values, dict)):
            raise UserError(
                f"{path}: VARIANTS has {name!r}", 'names with values: {"short": {"rank": 1}}'
            )
    return found


@cache
def submissions() -> dict[str, Plugin]:
    """Return all submissions by name: the shipped folders, then packages of the entry point."""
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


def is_path(name: str) -> bool:
    """Return True if `name` is a path: of a plugin's file, a variant in it, or its folder."""
    return name.endswith(".py") or ".py:" in name or "/" in name


def _file_of(name: str, what: str) -> Path:
    """Return the plugin's file at a path: the file, or NAME.py in the folder NAME.

    Raises:
        UserError: there is no such file.
    """
    path = Path(name).expanduser().resolve()
    if path.is_dir():
        inside = path / f"{path.name}.py"
        if not inside.is_file():
            raise UserError(f"{name} is a folder without {inside.name}", f"{name}/FILE.py")
        return inside
    if not path.is_file():
        beside = [str(p.relative_to(Path.cwd())) for p in Path.cwd().glob("*.py")]
        raise UserError(
            f"{what} file {name} does not exist",
            nearest(Path(name).name, beside) if beside else "",
            f"to write one: harness new {what} {Path(name).stem}",
        )
    return path


def find(name: str) -> Plugin:
    """Return the submission called `name`, or the one in the file at path `name`.

    `./file.py:variant` is a variant of a file, `./folder` is the file folder/folder.py.

    Raises:
        UserError: there is none.
    """
    if is_path(name):
        place, _, variant = name.rpartition(":") if ".py:" in name else (name, "", "")
        path = _file_of(place, "submission")
        for plugin in submissions().values():
            if plugin.path == path and plugin.name == (variant or path.stem):
                return plugin
        if variant and variant not in (names := _variants(path)):
            raise UserError(f"{place} has no variant {variant!r}", nearest(variant, names))
        return Plugin(variant or path.stem, path, "", None)
    if "." in name:
        from harness.catalog import optimizer_classes

        return Plugin(name, Path(optimizer_classes.__file__), "class", None, name)
    if name not in submissions():
        raise UserError(
            f"no submission is called {name!r}", nearest(name, submissions()), "harness list"
        )
    return submissions()[name]


def find_workload(name: str) -> Plugin:
    """Return the workload called `name`, or the one in the file at path `name`.

    Raises:
        UserError: there is none, or a file has the name of another workload.
    """
    if is_path(name):
        path = _file_of(name, "workload")
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
        raise UserError(
            f"no workload is called {name!r}", nearest(name, workloads()), "harness list workloads"
        )
    return workloads()[name]


def tracks(card: Card) -> list[str]:
    """The tracks a submission races on: as declared, else every one for an optimizer.

    An optimizer on a fine-tuning or continual workload trains all weights, as full and finetune do.
    """
    optimizer = card.form in ("a", "b") and "adapt" not in card.functions
    return card.literals.get("TRACKS", list(TRACKS) if optimizer else ["train"])


@cache
def functions(plugin: Plugin) -> dict[str, list[str]]:
    """The functions of a plugin's file, those it imports by name among them, and the names of
    their parameters, by the text alone."""
    return reading.functions(plugin.path, plugin.base)


@cache
def read(plugin: Plugin) -> Card:
    """A submission's docstring, literals and functions; UserError for what is no submission."""
    if plugin.target:
        from harness.catalog import optimizer_classes

        told, space = (
            optimizer_classes.summary(plugin.target),
            optimizer_classes.space(plugin.target),
        )
        return Card(plugin, told, "a", {"SPACE": space}, frozenset({"optimizer"}))
    tree = reading.tree(plugin.path)
    defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    defined |= {
        t.id
        for n in tree.body
        if isinstance(n, ast.Assign)
        for t in n.targets
        if isinstance(t, ast.Name)
    }
    forms = [FORMS[name] for name in FORMS if name in defined]
    if len(forms) != 1:
        found = "several" if forms else "none"
        raise UserError(
            f"{plugin.path} is no submission: it defines {found} of optimizer, update, Algorithm",
            "one of optimizer(params, hp), init and update, class Algorithm, adapt and BASE",
            "harness new submission NAME writes one to start from",
        )
    if "BASE" in defined and "adapt" not in defined:
        raise UserError(f"{plugin.path} names a BASE but defines no adapt(model, task, hp)")
    if "update" in defined and "init" not in defined:
        raise UserError(f"{plugin.path} defines update but no init(params, hp)")
    card = Card(
        plugin,
        ast.get_docstring(tree) or "",
        forms[0],
        reading.literals(plugin.path, LITERALS, plugin.base),
        frozenset(defined),
    )
    reading.check(plugin.path, tree, plugin.base)
    _check_literals(card, tree)
    _take_variant(card)
    return card


def _take_variant(card: Card) -> None:
    """Check VARIANTS against SPACE, and fix the values of the variant that the card is of."""
    variants, space = _variants(card.plugin.path), card.literals["SPACE"]
    for name, values in variants.items():
        for key, value in values.items():
            values[key] = check(space, key, value, f"VARIANTS[{name!r}] of {card.plugin.path}")
    if card.plugin.variant:
        card.literals["SPACE"] = space | variants[card.plugin.name]


def _check_literals(card: Card, tree: ast.Module) -> None:
    where = card.plugin.path
    if not isinstance(card.literals.get("SPACE"), dict):
        raise UserError(
            f"{where} has no SPACE", 'a dictionary such as SPACE = {"lr": {"log": [1e-4, 1e-2]}}'
        )
    _refuse_retired(where, tree)
    for name in (n for n in card.functions if n.isupper() and n not in LITERALS):
        close = nearest(name, LITERALS)
        if close.startswith("did you mean"):
            raise UserError(f"{where} sets {name}, which the harness does not know", close)
    read_keys = {
        n.attr
        for path in sources(card.plugin)
        for n in ast.walk(reading.tree(path))
        if isinstance(n, ast.Attribute)
    }
    by_harness = {"warmup"} if card.form == "a" and "schedule" not in card.functions else set()
    for key in card.literals["SPACE"]:
        if key.startswith("fallback_") and card.literals.get("FALLBACK"):
            continue
        if key.startswith(("base_", "head_")) and card.literals.get("BASE"):
            continue
        if key not in read_keys | by_harness:
            raise UserError(
                f"{where}: SPACE has {key!r}, but nothing reads hp.{key}",
                do=f"use hp.{key} or remove it from SPACE",
            )


def _refuse_retired(path: Path, parsed: ast.Module) -> None:
    """Raise UserError for a literal that was read once, unless the file's own code uses the name.

    It would be ignored in silence otherwise. Removing it changes no identity.
    """
    used = {
        n.id for n in ast.walk(parsed) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
    }
    for node in parsed.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id in RETIRED and target.id not in used:
            raise UserError(
                f"{path}:{node.lineno}: {target.id} is no longer read",
                RETIRED[target.id],
                "remove the line; no run of the file is lost by that",
            )


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
    return sorted(seen)


def inside(plugin: Plugin, path: Path) -> Path:
    """Return where a source file lies in the project, in the plugin's own folder, or its name."""
    if path.is_relative_to(ROOT):
        return path.relative_to(ROOT)
    if plugin.base and path.is_relative_to(plugin.base):
        return path.relative_to(plugin.base)
    return Path(path.name)


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
