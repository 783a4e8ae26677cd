"""The harness names no workload and no method; workloads define functions as the contract says."""

import ast

import pytest

from harness import contract
from harness.catalog import discover, reading
from tests.support.racing import ROOT

# Rooms whose messages show examples to a user.
EXAMPLES = ("cli",)
# Modules that name a workload for a reason.
ALLOWED = {
    # the workload whose step is the unit of every price table
    ("clock/calibrate.py", "gpt2"),
}
# Names of methods that are words of the harness or of torch: a scale, a track, an argument.
WORDS = {"full", "fixed", "uniform", "l2", "finetune", "game", "amsgrad", "stable_adamw"}
WORDS |= {"miss", "ternary", "codebook", "private", "partial", "robust", "fed", "active"}


def constants(path):
    """The strings in a file's code, docstrings left out."""
    parsed = ast.parse(path.read_text())
    for node in ast.walk(parsed):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            body[0] = ast.Pass()
    return {n.value for n in ast.walk(parsed) if isinstance(n, ast.Constant) and n.value}


def test_no_module_names_a_workload_or_a_method():
    names = {*discover.workloads(), *discover.submissions()} - WORDS
    found = set()
    for path in sorted((ROOT / "harness").rglob("*.py")):
        inside = path.relative_to(ROOT / "harness")
        if inside.parts[0] in EXAMPLES:
            continue
        found |= {(inside.as_posix(), text) for text in constants(path) if text in names}
    assert found == ALLOWED


@pytest.mark.parametrize("group", [contract.Workload, contract.WorkloadOptions])
def test_every_shipped_workload_has_the_arguments_of_the_contract(group):
    for name, plugin in discover.workloads().items():
        defined = reading.functions(plugin.path)
        for function, expected in contract.parameters(group).items():
            if function in defined:
                least = len(expected) - (function == "data")
                assert least <= len(defined[function]) <= len(expected), (name, function)
