"""What the tests prove of a submission: the badge it has earned, read off the test files' text.

A test named `..._equals_its_peer` earns "reference" (a trusted package follows the same path),
`..._equals_its_formula`, `_transcription` or `_second_loop` "formula" (so does a loop written from
the paper), any other test that is about the submission by name "self-consistent" (a limit, a closed
form, a property). A test is about the submissions in the rows of its table, in its literal list of
parameters, and the one it is named after. tests/catalog/test_badges.py holds every BADGE to this.
"""

import ast
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.catalog import discover, reading

BADGES = ("reference", "formula", "self-consistent")  # the best first
NAMED = {
    "peer": BADGES[0],
    "formula": BADGES[1],
    "transcription": BADGES[1],
    "second_loop": BADGES[1],
}
SAYS = re.compile(rf"_equals?_(?:its|a)_({'|'.join(NAMED)})(?:_|$)")
PACKAGE, DEFAULT = 3, "torch"  # the place of a Row's package among its arguments, and its default


@dataclass(frozen=True)
class Evidence:
    """A test of a submission: what it earns, where it is, the peer's package if it has one."""

    badge: str
    test: str
    package: str = ""

    def __str__(self) -> str:
        if not self.package:
            return self.test
        try:
            return f"{self.package} {version(self.package)} ({self.test})"
        except PackageNotFoundError:
            return f"{self.package}, not installed here ({self.test})"


def badge(found: list[Evidence]) -> str | None:
    """The best badge that some evidence earns."""
    return min((e.badge for e in found), key=BADGES.index, default=None)


@cache
def earned() -> dict[str, list[Evidence]]:
    """Evidence by submission's name; {} where the tests are not at hand."""
    found: dict[str, list[Evidence]] = {}
    for path in sorted((discover.ROOT / "tests").rglob("test_*.py")):
        parsed = reading.tree(path)
        tables = {
            node.targets[0].id: _rows(node.value)
            for node in parsed.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for test in parsed.body:
            if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
                for name, evidence in _of(test, tables, path):
                    if evidence not in found.setdefault(name, []):
                        found[name].append(evidence)
    return found


def _of(test: ast.FunctionDef, tables: dict, path: Path) -> list[tuple[str, Evidence]]:
    """The submissions a test is about, each with what the test earns it."""
    match = SAYS.search(test.name)
    kind = NAMED[match[1]] if match else BADGES[2]
    where = f"{path.relative_to(discover.ROOT)}: {test.name}"
    rows = [(name, "") for name in _named_after(test.name)]
    parity = path.name.startswith("test_parity")
    for call in test.decorator_list:
        if isinstance(call, ast.Call) and len(call.args) > 1 and (match or parity):
            values = call.args[1]
            if isinstance(values, ast.Name):
                rows += tables.get(values.id, [])
            elif isinstance(values, ast.List):
                rows += [(v, "") for v in map(_text, values.elts) if v in discover.submissions()]
    return [(name, Evidence(kind, where, p if kind == BADGES[0] else "")) for name, p in rows]


def _named_after(test: str) -> list[str]:
    """The submission that a test's name begins with: the longest of those that fit."""
    fit = [name for name in discover.submissions() if f"{test}_".startswith(f"test_{name}_")]
    return [max(fit, key=len)] if fit else []


def _rows(value: ast.expr) -> list[tuple[str, str]]:
    """(submission, package) of the Row(...) calls in a list."""
    rows = []
    for call in value.elts if isinstance(value, ast.List) else []:
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Row" and call.args:
            given = {k.arg: k.value for k in call.keywords}
            place = call.args[PACKAGE] if len(call.args) > PACKAGE else given.get("package")
            rows.append((_text(call.args[0]), DEFAULT if place is None else _text(place)))
    return rows


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
