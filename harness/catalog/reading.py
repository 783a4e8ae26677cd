"""Read Python files as text: literals, imports, signatures. Nothing is run."""

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Collection
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

from harness import contract
from harness.errors import UserError
from harness.system.paths import ROOT

ENTRY_POINTS = "harness.submissions"
WORKLOAD_ENTRY_POINTS = "harness.workloads"
# A name of a plugin, and of all that records name: no path, no markup, no folder that hides.
NAME = re.compile(r"(?!.*\.\.)\w[\w.:+ -]{0,199}")
# What parsing raises for a file that is not Python, has null bytes, or nests too deep.
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
# A file beside a submission cannot take the place of one of these.
RESERVED = sys.stdlib_module_names | {"harness", "torch", "numpy"}
SIGNATURES = contract.parameters(contract.Submission)


@cache
def roots() -> dict[str, Path]:
    """Return the folder of each top-level package whose files are plugins; import nothing."""
    found: dict[str, Path] = {"submissions": ROOT, "workloads": ROOT}
    for entry in (*entry_points(group=ENTRY_POINTS), *entry_points(group=WORKLOAD_ENTRY_POINTS)):
        spec = importlib.util.find_spec(entry.value.split(".")[0])
        if spec and spec.submodule_search_locations:
            found[spec.name] = Path(spec.submodule_search_locations[0]).parent
    return found


def check_name(path: Path) -> None:
    """Raise UserError if a plugin's file has a name that no record can have."""
    if not NAME.fullmatch(path.stem):
        raise UserError(
            f"{path} cannot be raced: {path.stem!r} cannot be the name of a record",
            "a letter, a digit or _, then also . : + - and spaces, without two dots in a row",
            "rename the file, for example to my_idea.py",
        )


def package_folders() -> list[Path]:
    """Return the folder of each top-level package that submissions or workloads come from."""
    return [parent / name for name, parent in roots().items()]


def tree(path: Path) -> ast.Module:
    """Return the file's syntax tree, to be read only.

    Raises:
        UserError: the file is not valid Python.
    """
    try:
        state = os.stat(path)
        return _parsed(path, (state.st_ino, state.st_mtime_ns, state.st_size))
    except UNREADABLE as error:
        raise UserError(f"{path} is not valid Python: {error}") from None


@cache
def _parsed(path: Path, state: tuple[int, ...]) -> ast.Module:
    # Some editors begin a file with a mark of its encoding, which Python skips.
    return ast.parse(path.read_text(encoding="utf-8-sig"), str(path))


class Seen(NamedTuple):
    """What a file's code mentions anywhere.

    Attributes:
        attributes: what follows a dot. names: those that are read.
    """

    imports: list[ast.Import | ast.ImportFrom]
    attributes: set[str]
    names: set[str]


@cache
def seen(parsed: ast.Module) -> Seen:
    """Return what a file's code mentions, by one walk over its syntax tree."""
    found = Seen([], set(), set())
    for node in ast.walk(parsed):
        if isinstance(node, ast.Attribute):
            found.attributes.add(node.attr)
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                found.names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.imports.append(node)
    return found


@cache
def _imports(parsed: ast.Module) -> dict[str, str]:
    """Return local name -> dotted module for a file's imports; leading dots stay in front."""
    names = {}
    for node in seen(parsed).imports:
        if isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            separator = "." if node.module else ""
            names |= {a.asname or a.name: f"{source}{separator}{a.name}" for a in node.names}
            names.setdefault(f"<{source}>", source)
        else:
            names |= {a.asname or a.name: a.name for a in node.names}
    return names


def module_file(dotted: str, path: Path, base: Path | None) -> Path | None:
    """Return the file of a module that the plugin file `path` imports, or None.

    Args:
        base: the folder of a plugin outside of a package, whose files may import each other.
    """
    parts = dotted.lstrip(".").split(".")
    level = len(dotted) - len(dotted.lstrip("."))
    if level:
        folder = path.parents[level - 1] if level <= len(path.parents) else path.parent
        inside = base or package_folder(path)
        if inside is None or not folder.is_relative_to(inside):
            return None
        return _beside(folder, parts)
    if parts[0] in roots():
        file = roots()[parts[0]].joinpath(*parts).with_suffix(".py")
        return file if file.is_file() else None
    if base is None or parts[0] in RESERVED:
        return None
    return _beside(base, parts)


def package_folder(path: Path) -> Path | None:
    """Return the folder of the package of plugins that a file belongs to, or None."""
    return next((f for f in package_folders() if path.is_relative_to(f)), None)


def _beside(folder: Path, parts: list[str]) -> Path | None:
    """Return the module or package of this dotted name below a folder, or None."""
    place = folder.joinpath(*parts)
    for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
        if place != folder and file.is_file():
            return file
    return None


def imported(path: Path, base: Path | None = None) -> list[Path]:
    """Return the plugins' files that a file imports, `__init__.py` of their folders included."""
    found = []
    for dotted in _imports(tree(path)).values():
        file = module_file(dotted, path, base)
        if file is None:
            continue
        found.append(file)
        if base and file.is_relative_to(base):
            folders = [f for f in file.parents if f != base and f.is_relative_to(base)]
            found += [f / "__init__.py" for f in folders if (f / "__init__.py").is_file()]
    return found


def package_files(path: Path) -> list[Path]:
    """Return every `__init__.py` that importing a file of a package of plugins runs."""
    package = package_folder(path)
    if package is None:
        return []
    folders = [folder for folder in path.parents if folder.is_relative_to(package)]
    return [folder / "__init__.py" for folder in folders if (folder / "__init__.py").is_file()]


def has_code(path: Path) -> bool:
    """Return True if a file has more than a docstring."""
    return any(not isinstance(node, ast.Expr) for node in tree(path).body)


def functions(path: Path, base: Path | None = None) -> dict[str, list[str]]:
    """Return a file's functions, those imported by name too, and their parameters' names."""
    found = {}
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
        elif isinstance(node, ast.ImportFrom):
            file = module_file("." * node.level + (node.module or ""), path, base)
            offered = functions(file, base) if file else {}
            names = {a.asname or a.name: a.name for a in node.names}
            found |= {mine: offered[theirs] for mine, theirs in names.items() if theirs in offered}
    return found


def _value(node: ast.expr, files: Callable[[str], Path | None], names: Collection[str], base):
    """Return a literal that may build on another plugin's: `lion.SPACE`, `{**lion.SPACE, ...}`."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        file = files(node.value.id)
        if file:
            return literals(file, names, base)[node.attr]
    if isinstance(node, ast.Dict):
        merged: dict = {}
        for key, value in zip(node.keys, node.values, strict=True):
            part = _value(value, files, names, base)
            merged |= part if key is None else {ast.literal_eval(key): part}
        return merged
    return ast.literal_eval(node)


def literals(path: Path, names: Collection[str], base: Path | None = None) -> dict:
    """Return the values a file gives to the upper-case `names`.

    Raises:
        UserError: one of them is not a literal.
    """
    parsed, values = tree(path), {}
    imports = _imports(parsed)

    def file_of(name: str) -> Path | None:
        return module_file(imports[name], path, base) if name in imports else None

    for node in parsed.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        name = node.targets[0].id
        if name in names:
            try:
                values[name] = _value(node.value, file_of, names, base)
            except (ValueError, KeyError, TypeError, RecursionError, MemoryError):
                raise UserError(
                    f"{path}:{node.lineno}: {name} is not a literal",
                    "numbers, strings, lists and dictionaries, or another submission's literal",
                ) from None
    return values


def check(path: Path, parsed: ast.Module, base: Path | None = None) -> None:
    """Raise UserError for functions that cannot be called as the contract says."""
    check_imports(path, parsed, base)
    for node in parsed.body:
        if not isinstance(node, ast.FunctionDef) or node.name not in SIGNATURES or node.args.vararg:
            continue
        wanted, taken = SIGNATURES[node.name], [*node.args.posonlyargs, *node.args.args]
        needed = len(taken) - len(node.args.defaults)
        if not needed <= len(wanted) <= len(taken) or None in node.args.kw_defaults:
            written = f"{node.name}({', '.join(a.arg for a in taken)})"
            raise UserError(
                f"{path}:{node.lineno}: {written} is called with {len(wanted)} arguments",
                f"{node.name}({', '.join(wanted)})",
            )


def check_imports(path: Path, parsed: ast.Module, base: Path | None) -> None:
    """Raise UserError for imports whose file does not exist, or could be another module's."""
    for node in seen(parsed).imports:
        if isinstance(node, ast.ImportFrom) and node.level:
            source = "." * node.level + (node.module or "")
            dot = "." if node.module else ""
            names = [f"{source}{dot}{alias.name}" for alias in node.names]
            if not any(module_file(name, path, base) for name in (source, *names)):
                raise UserError(
                    f"{path}:{node.lineno}: there is no file for `from {source} import ...`",
                    "modules in the file's own folder or below it",
                )
    for dotted in _imports(parsed).values():
        top = dotted.partition(".")[0]
        if base and top in RESERVED and (base / f"{top}.py").is_file():
            raise UserError(
                f"{path} imports {top}, and {base / f'{top}.py'} has that name as well",
                "a name that neither Python nor the harness uses",
                "rename the file beside it",
            )
