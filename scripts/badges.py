"""Write results/methods.json: what the tests prove of each submission, and the state it keeps.

    python scripts/badges.py            # compare the file with what the tests and measurements give
    python scripts/badges.py --write    # write it

Badge. A test named `..._equals_its_peer` earns "reference": a trusted package takes the same path.
`..._equals_its_formula`, `_transcription` or `_second_loop` earns "formula": a loop written from
the paper does. Any other test about the submission by name earns "self-consistent": a limit, a
closed form, a property. A test is about the submissions in the rows of its table, in its literal
list of parameters, and the one it is named after. The test files are read as text.

State. The most bytes of state that the submission keeps in a short run at its default point, over
the bytes of the parameters it trains. Methods that race on a language model run on one of width
128, where a low-rank state is small as it is in practice; the others on the laws' small problem.
"""

import argparse
import ast
import json
import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from harness.catalog import discover, methods, reading
from harness.catalog.card import Card
from harness.catalog.definition import merge
from harness.catalog.methods import BADGES, Evidence, Method
from harness.laws.small_run import SmallRun
from harness.system.files import atomic_write
from harness.system.paths import ROOT

NAMED = {
    "peer": BADGES[0],
    "formula": BADGES[1],
    "transcription": BADGES[1],
    "second_loop": BADGES[1],
}
SAYS = re.compile(rf"_equals?_(?:its|a)_({'|'.join(NAMED)})(?:_|$)")
# The place of a Row's package among its arguments, and the package where none is given.
PACKAGE, DEFAULT = 3, "torch"
LANGUAGE = ("gpt2", "ft_gpt2", "compress_gpt2")
WIDE = {"model": {"width": 128}, "horizon": 12}
TOLERANCE = 0.05


# Badges, from the text of the tests


def badge(evidence: list[Evidence]) -> str | None:
    """Return the best badge that some evidence earns, or None."""
    return min((each.badge for each in evidence), key=BADGES.index, default=None)


@cache
def earned() -> dict[str, list[Evidence]]:
    """Return the evidence of the tests by submission."""
    evidence: dict[str, list[Evidence]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        parsed = reading.tree(path)
        tables = {
            node.targets[0].id: _rows(node.value)
            for node in parsed.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for test in parsed.body:
            if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
                for name, each in _of(test, tables, path):
                    if each not in evidence.setdefault(name, []):
                        evidence[name].append(each)
    return evidence


def _of(test: ast.FunctionDef, tables: dict, path: Path) -> list[tuple[str, Evidence]]:
    """Return the submissions that a test is about, each with what the test earns it."""
    match = SAYS.search(test.name)
    kind = NAMED[match[1]] if match else BADGES[2]
    where = f"{path.relative_to(ROOT)}: {test.name}"
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
    """Return the submission that a test's name begins with: the longest of those that fit."""
    fit = [name for name in discover.submissions() if f"{test}_".startswith(f"test_{name}_")]
    return [max(fit, key=len)] if fit else []


def _rows(value: ast.expr) -> list[tuple[str, str]]:
    """Return (submission, package) of the Row(...) calls in a list."""
    rows = []
    for call in value.elts if isinstance(value, ast.List) else []:
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Row" and call.args:
            keywords = {k.arg: k.value for k in call.keywords}
            place = call.args[PACKAGE] if len(call.args) > PACKAGE else keywords.get("package")
            rows.append((_text(call.args[0]), DEFAULT if place is None else _text(place)))
    return rows


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


# State, by measurement


def state(card: Card) -> tuple[float, str]:
    """Return bytes of state over bytes of trained parameters in a short run, and what it ran on."""
    subject = SmallRun(card)
    problem = subject.workload
    if problem.name in LANGUAGE:
        changes = merge(problem.changes, WIDE, "wide")
        title = f"{problem.name}, width {WIDE['model']['width']}"
        problem = replace(problem, title=title, changes=changes)
    run, most = subject.begin(problem), 0
    for _ in range(problem.horizon):
        subject.advance(run, 1)
        most = max(most, run.submission.state_bytes())
    trained = sum(p.numel() * p.element_size() for p in run.task.params)
    return float(f"{most / max(1, trained):.4g}"), problem.title


# The file


def badged(name: str) -> Method:
    """Return what the tests prove of a submission, without its state: a variant is its file's."""
    evidence = earned().get(discover.find(name).path.stem, [])
    return Method(badge(evidence), tuple(evidence))


def described(name: str) -> Method:
    """Return what the tests prove of a submission, and its measured state."""
    proven = badged(name)
    words, problem = state(discover.read(discover.find(name)))
    return Method(proven.badge, proven.tests, words, problem)


def agrees(here: Method, kept: Method | None) -> bool:
    """Return True if a method's kept description is what tests and measurement give."""
    if kept is None or (here.badge, here.tests) != (kept.badge, kept.tests):
        return False
    assert here.state is not None
    assert kept.state is not None
    return here.measured_on == kept.measured_on and (
        abs(here.state - kept.state) <= TOLERANCE * max(abs(here.state), 0.01)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help=f"write {methods.PATH.name}")
    write = parser.parse_args().write
    torch.set_num_threads(1)
    here = {name: described(name) for name in sorted(discover.submissions())}
    if write:
        text = json.dumps({name: each.plain() for name, each in here.items()}, indent=1)
        atomic_write(methods.PATH, f"{text}\n")
        print(f"wrote {len(here)} submissions to {methods.PATH}")
        return 0
    kept = methods.methods()
    wrong = [name for name, each in here.items() if not agrees(each, kept.get(name))]
    wrong += sorted(kept.keys() - here.keys())
    for name in wrong:
        print(f"{name}: {methods.PATH.name} has {kept.get(name)}, measured {here.get(name)}")
    print(f"{len(here)} submissions, {len(wrong)} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
