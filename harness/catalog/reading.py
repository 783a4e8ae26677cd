"""What Python files say, read as text: literals, imports, signatures. Nothing is run."""

import ast
import importlib.util
from collections.abc import Collection
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from harness import contract
from harness.errors import UserError
from harness.system.paths import ROOT

ENTRY_POINTS = "harness.submissions"
DESCRIBING = ("BADGE", "STATE", "SKIPS", "VARIANTS")  # literals that say what a file is, not does
SIGNATURES = contract.parameters(contract.Submission)


@cache
def roots() -> dict[str, Path]:
    """Top-level packages whose files are plugins: the folder each is in (nothing is imported)."""
    found: dict[str, Path] = {"submissions": ROOT, "workloads": ROOT}
    for entry in entry_points(group=ENTRY_POINTS):
        spec = importlib.util.find_spec(entry.value.split(".")[0])
        if spec and spec.submodule_search_locations:
            found[spec.name] = Path(spec.submodule_search_locations[0]).parent
    return found


def package_folders() -> list[Path]:
    """Return the folder of each top-level package that submissions or workloads come from."""
    return [parent / name for name, parent in roots().items()]


def tree(path: Path) -> ast.Module:
    """The file's syntax tree, to be read only; UserError where it is no valid Python."""
    try:
        return _parsed(path, path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid Python: {error}") from None


@cache
def _parsed(path: Path, text: str) -> ast.Module:
    return ast.parse(text, str(path))


@cache
def _imports(parsed: ast.Module) -> dict[str, str]:
    """Local name -> dotted module, for the imports of a file."""
    names = {}
    for node in ast.walk(parsed):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            names.setdefault(f"<{node.module}>", node.module)
        elif isinstance(node, ast.Import):
            names |= {a.asname or a.name: a.name for a in node.names}
    return names


def _module_file(dotted: str) -> Path | None:
    """The file of a dotted module in a package of plugins."""
    parts = dotted.split(".")
    if parts[0] not in roots():
        return None
    path = roots()[parts[0]].joinpath(*parts).with_suffix(".py")
    return path if path.is_file() else None


def imported(path: Path) -> list[Path]:
    """The plugins' files that a file imports."""
    return [file for dotted in _imports(tree(path)).values() if (file := _module_file(dotted))]


def functions(path: Path) -> dict[str, list[str]]:
    """A file's functions, those imported by name among them, and their parameters' names."""
    found = {}
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            file = _module_file(node.module or "")
            offered = functions(file) if file else {}
            names = {a.asname or a.name: a.name for a in node.names}
            found |= {mine: offered[theirs] for mine, theirs in names.items() if theirs in offered}
    return found


def _value(node: ast.expr, imports: dict[str, str], names: Collection[str]):
    """A literal that may build on another plugin's: `lion.SPACE`, `{**lion.SPACE, ...}`."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        file = _module_file(imports.get(node.value.id, ""))
        if file:
            return literals(file, names)[node.attr]
    if isinstance(node, ast.Dict):
        merged: dict = {}
        for key, value in zip(node.keys, node.values, strict=True):
            part = _value(value, imports, names)
            merged |= part if key is None else {ast.literal_eval(key): part}
        return merged
    return ast.literal_eval(node)


def literals(path: Path, names: Collection[str]) -> dict:
    """The values a file gives to the upper-case `names`; UserError where one is no literal."""
    parsed = tree(path)
    imports, values = _imports(parsed), {}
    for node in parsed.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        name = node.targets[0].id
        if name in names:
            try:
                values[name] = _value(node.value, imports, names)
            except (ValueError, KeyError):
                raise UserError(
                    f"{path}:{node.lineno}: {name} is not a literal",
                    "numbers, strings, lists and dictionaries, or another submission's literal",
                ) from None
    return values


def check(path: Path, parsed: ast.Module) -> None:
    """Refuse functions the harness cannot call, and imports whose source it cannot keep."""
    for node in ast.walk(parsed):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise UserError(
                f"{path}:{node.lineno}: an import with leading dots",
                do="write it from the top, so that its source is kept",
            )
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
