"""Laws of the house: rooms import downwards, modules and functions are short, privacy is kept."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from harness.system.paths import ROOT

MODULES = sorted((ROOT / "harness").rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
LINES, FUNCTION, CLASS = 300, 60, 150
# What is longer, and why.
EXCEPTIONS = {
    "Evaluator": "one evaluation: weights in, metrics and the submission's own predictions out",
    "RankTask": "the same contract, by several processes",
    "Task": "it is the contract of what a submission may ask",
    "Passes": "it is the part of that contract that is counted",
    "ProcessRunner": "one account of a runner's seconds",
    "RunnerChild": "one process",
    "Runner": "one trial's training",
    "Submission": "one submission at work, whatever its form",
    "OptimizerForm": "form (a), with what classes of other packages ask for",
    "Rule": "the one adapter of form (b) to torch.optim.Optimizer",
    "start": "Runner.start builds everything in an order that the clock depends on",
}
TORCH_ROOMS = {"train", "laws"}
TORCH_MODULES = {
    "clock/pass_timer.py",
    "race/diagnosis.py",
    "race/evaluator.py",
    # What only the evaluator imports.
    "race/constraints.py",
    "race/reduction.py",
    "race/stored_bits.py",
    "race/weight_metrics.py",
}


def test_rooms_import_downwards():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "harness")))
def test_a_module_is_short_documented_and_keeps_to_what_is_public(path):
    tree, lines = TREES[path], path.read_text(encoding="utf-8").count("\n")
    assert ast.get_docstring(tree), "no docstring"
    assert lines <= LINES or path.name in EXCEPTIONS, f"{lines} lines"
    for node in ast.walk(tree):
        size = getattr(node, "end_lineno", 0) - getattr(node, "lineno", 0) + 1
        if isinstance(node, ast.FunctionDef):
            assert size <= FUNCTION or node.name in EXCEPTIONS, f"{node.name}: {size} lines"
        if isinstance(node, ast.ClassDef):
            assert size <= CLASS or node.name in EXCEPTIONS, f"{node.name}: {size} lines"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness"):
            private = [
                a.name for a in node.names if a.name.startswith("_") and a.name != "__version__"
            ]
            assert not private, f"imports {private}"


def test_the_parts_of_a_race_that_start_first_do_not_import_torch():
    """The referee starts its runner before it imports torch; a command that lists never does."""
    rooms = [path for path in MODULES if len(path.relative_to(ROOT / "harness").parts) > 1]
    for path in rooms:
        inside = path.relative_to(ROOT / "harness")
        if inside.parts[0] in TORCH_ROOMS or inside.as_posix() in TORCH_MODULES:
            continue
        for node in TREES[path].body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] == "torch"], inside
