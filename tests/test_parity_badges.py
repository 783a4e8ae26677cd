"""What is known of each submission's faithfulness: its badge, and the test that earned it.

    reference        equals a trusted package, step by step
    formula          equals a second implementation, written from the paper's rule
    self-consistent  equals a simpler method in a limit, and nothing more is known

A badge is that of the best table a method has a row in. `python -m tests.test_parity_badges` prints
them all.
"""

import importlib
import re
from pathlib import Path

import pytest

from harness import discover
from tests import (
    test_parity,
    test_parity_continual,
    test_parity_matrix,
    test_parity_owners,
    test_parity_peft,
    test_parity_samplers,
    test_parity_sparse,
)

TABLES = [  # badge, module, its table, the test that goes through it; the best badge comes first
    ("reference", test_parity, "PEERS", "test_submission_equals_its_peer"),
    ("reference", test_parity_matrix, "PEERS", "test_matrix_method_equals_its_peer"),
    ("reference", test_parity_peft, "PEERS", "test_adapter_equals_its_peer"),
    ("formula", test_parity, "FORMULAS", "test_submission_equals_its_formula"),
    ("formula", test_parity, "OWNERS", "test_owner_of_its_step_equals_its_formula"),
    ("formula", test_parity_matrix, "FORMULAS", "test_matrix_method_equals_its_formula"),
    ("formula", test_parity_owners, "FORMULAS", "test_owner_equals_its_second_loop"),
    ("formula", test_parity_owners, "DEPTHS", "test_blocks_equal_a_second_loop"),
    ("formula", test_parity_peft, "FORMULAS", "test_fine_tuning_method_equals_its_formula"),
    ("formula", test_parity_sparse, "FORMULAS", "test_compression_method_equals_its_formula"),
    ("formula", test_parity_continual, "FORMULAS", "test_continual_method_equals_its_formula"),
    ("formula", test_parity_samplers, "ROWS", "test_sampler_equals_its_formula"),
    ("self-consistent", test_parity_continual, "LIMITS", "test_continual_method_has_its_limit"),
]
SINGLE = {  # rows that needed a test of their own
    "elr": ("formula", "test_parity_matrix", "test_elr_equals_its_formula"),
    "ef21": ("formula", "test_parity_matrix", "test_ef21_equals_its_formula"),
    "eggroll": ("formula", "test_parity_matrix", "test_eggroll_equals_its_formula"),
    "dp_sgd": (
        "formula",
        "test_parity_matrix",
        "test_dp_sgd_clips_each_example_over_all_parameters",
    ),
    "gd": ("formula", "test_matrix", "test_method_equals_its_transcription"),
    "scaled_gd_lambda": ("formula", "test_matrix", "test_method_equals_its_transcription"),
    "precgd": ("formula", "test_matrix", "test_method_equals_its_transcription"),
    "scaled_gd": (
        "formula",
        "test_matrix",
        "test_scaled_gd_starts_at_the_spectrum_and_then_is_scaled",
    ),
    "subgm": ("formula", "test_matrix", "test_subgm_equals_its_transcription"),
    "alternating_minimisation": (
        "self-consistent",
        "test_matrix",
        "test_alternating_minimisation_solves_each_regression",
    ),
}


FILES = sorted(
    {plugin.path.stem for plugin in discover.submissions().values()}
)  # variants share one


def badges():
    """{submission: (badge, "file::test")}, in the order of the tables."""
    found = {}
    for badge, module, table, test in TABLES:
        for row in getattr(module, table):
            where = f"{module.__name__.rpartition('.')[2]}.py::{test}"
            found.setdefault(row.submission, (badge, where))
    for name, (badge, module, test) in SINGLE.items():
        found.setdefault(name, (badge, f"{module}.py::{test}"))
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_submission_has_earned_its_badge(name):
    assert name in badges(), f"{name} has no row in any table of tests/test_parity*.py"
    said = discover.read(discover.find(name)).literals.get("BADGE")
    assert said in (None, badges()[name][0])


def test_no_badge_is_without_its_submission_and_test():
    assert badges().keys() <= discover.submissions().keys()
    for name, (_, where) in badges().items():
        file, test = where.split("::")
        module = importlib.import_module(f"tests.{file.removesuffix('.py')}")
        assert hasattr(module, test), (name, where)


def test_methods_that_are_second_implementations_of_none_say_what_is_known_of_them():
    """A file that departs from its paper says how: the line is never left out."""
    for plugin in discover.submissions().values():
        text = discover.read(plugin).doc
        assert re.search(r"^Departures from the paper: \S", text, re.MULTILINE), plugin.name


if __name__ == "__main__":
    for name, (badge, where) in sorted(badges().items()):
        family = Path(discover.find(name).path).parent.name
        print(f"{family:14} {name:26} {badge:16} {where}")
