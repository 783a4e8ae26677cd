"""docs/architecture.md is true: its files and names exist, its order of rooms is the contract's."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from harness.catalog.discover import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
ROOTS = ("harness", "submissions", "workloads", "conf", "results", "tests", "scripts", "benches")
# Words in capitals, such as RUN_ID, stand for any name. A user's runs are not in the project.
ANY = re.compile(r"\b[A-Z_]{2,}\b(?!\.md)")
WRITTEN_BY_RACES = "results/runs/"


def paths() -> list[str]:
    """Return every path that the page names in code marks."""
    words = re.findall(r"`([\w./*-]+)`", PAGE)
    inside = re.compile(rf"({'|'.join(ROOTS)}|docs)/")
    return [w for w in words if inside.match(w) or w in ("README.md", "pyproject.toml")]


def steps() -> list[tuple[str, list[str]]]:
    """Return the module and the names of each row that ends in a module and names in it."""
    rows = re.findall(r"^\| .+ \| `(\S+\.py)` \| (`.+`) \|$", PAGE, re.MULTILINE)
    return [(module, re.findall(r"`(\w+)`", names)) for module, names in rows]


def defined(module: str) -> set[str]:
    """Return the names of the functions and classes at the top of a module."""
    body = ast.parse((ROOT / module).read_text()).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in body if isinstance(node, kinds)}


def contract() -> list[str]:
    """Return the layers of the import contract, top first; the kit's modules are one layer."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = settings["contracts"][0]["layers"]
    assert "harness.errors" in layers[-1]
    return [layer.replace("harness.", "") for layer in layers[:-1]] + ["kit"]


@pytest.mark.parametrize("path", sorted(set(paths())))
def test_every_path_exists(path):
    if not path.startswith(WRITTEN_BY_RACES):
        assert list(ROOT.glob(ANY.sub("*", path).rstrip("/"))), path


@pytest.mark.parametrize("module, names", steps())
def test_every_name_is_defined_in_its_module(module, names):
    assert names
    assert {*names} <= defined(module)


def test_every_row_of_the_tables_that_name_functions_is_read():
    tables = re.findall(r"^\| .*\| module \| names? \|\n(?:\|.*\n)+", PAGE, re.MULTILINE)
    assert len(tables) == 3
    assert len(steps()) == sum(len(table.splitlines()) - 2 for table in tables)


def test_the_order_of_rooms_is_that_of_the_import_contract():
    block = re.search(r"```\n(cli\n.*?)```", PAGE, re.DOTALL)
    assert block
    assert block[1].splitlines() == contract()


def test_every_room_has_a_row():
    rooms = {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")}
    assert rooms == {room for layer in contract()[:-1] for room in layer.split(" | ")}
    assert rooms <= set(re.findall(r"^\| `harness/(\w+)/` \|", PAGE, re.MULTILINE))


def test_every_module_of_the_kit_is_named():
    files = {f"harness/{path.name}" for path in (ROOT / "harness").glob("[!_]*.py")}
    named = {path for path in paths() if Path(path).parent == Path("harness")}
    matched = {f"harness/{found.name}" for path in named for found in ROOT.glob(path)}
    assert files <= matched


def test_the_tree_in_the_readme_has_every_folder_once():
    tree = re.search(r"```\n(harness/ .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree
    lines = re.findall(r"^( *)(\w+)/ +\S", tree[1], re.MULTILINE)
    assert len(lines) == len(tree[1].splitlines())
    rooms = [name for indent, name in lines if indent]
    assert rooms == [room for layer in contract()[:-1] for room in layer.split(" | ")]
    assert sorted(name for indent, name in lines if not indent) == sorted(ROOTS)


def test_every_folder_of_the_project_is_named():
    top = re.findall(r"^\| `(\w+)/` \|", PAGE, re.MULTILINE)
    assert sorted(top) == sorted(ROOTS)
