"""A badge is never without its test, nor a test without its badge; what STATE says is declared."""

import re

import pytest

from harness.catalog import badges, discover, state_size
from harness.catalog.badges import BADGES, Evidence

FILES = sorted(n for n, plugin in discover.submissions().items() if not plugin.variant)


@pytest.mark.parametrize("name", FILES)
def test_a_badge_is_what_the_tests_earn(name):
    said = discover.read(discover.find(name)).literals.get("BADGE")
    assert said == badges.badge(badges.earned().get(name, []))


@pytest.mark.parametrize("name", FILES)
def test_state_words_are_declared(name):
    """tests/laws/test_laws.py measures them."""
    assert state_size.stated_by(discover.read(discover.find(name))) is not None


def test_evidence_is_of_tests_and_submissions_that_exist():
    for name, found in badges.earned().items():
        assert name in discover.submissions()
        for each in found:
            file, test = each.test.split(": ")
            assert f"def {test}(" in (discover.ROOT / file).read_text()


def test_the_best_evidence_counts():
    known = badges.earned()
    assert badges.badge(known["lion"]) == "reference"
    packages = {e.package for e in known["lion"]}
    assert packages >= {"lion-pytorch", "pytorch_optimizer"}
    assert badges.badge(known["gd"]) == "formula"  # by a literal list of names
    assert badges.badge(known["subgm"]) == "formula"  # by the test's own name
    assert badges.badge(known["alternating_minimisation"]) == "self-consistent"
    assert badges.badge([]) is None
    assert badges.badge([Evidence(b, "") for b in reversed(BADGES)]) == BADGES[0]


def test_a_file_that_departs_from_its_paper_says_how():
    for name in FILES:
        text = discover.read(discover.find(name)).doc
        assert re.search(r"^Departures from the paper: \S", text, re.MULTILINE), name
