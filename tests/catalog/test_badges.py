"""results/methods.json is what the tests prove and what a short run measures, for every method."""

import re
from functools import cache

import pytest

from harness.catalog import discover, methods
from harness.catalog.definition import track_of, tree_of
from harness.catalog.methods import BADGES, Evidence
from harness.errors import UserError
from scripts import badges

FILES = sorted(n for n, plugin in discover.submissions().items() if not plugin.variant)
NAMES = sorted(discover.submissions())
# One of each form and problem, for the fast suite.
SAMPLE = ["adamw", "galore", "lora", "er", "scaled_gd", "rad", "magnitude", "nesterov"]


def test_every_submission_is_described_and_nothing_else():
    assert sorted(methods.methods()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_badge_is_what_the_tests_earn(name):
    here, kept = badges.badged(name), methods.of(name)
    assert (kept.badge, kept.tests) == (here.badge, here.tests)


@pytest.mark.parametrize("name", SAMPLE)
def test_the_state_is_what_a_short_run_measures(name):
    assert badges.agrees(badges.described(name), methods.of(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES) - set(SAMPLE)))
def test_every_state_is_what_a_short_run_measures(name):
    assert badges.agrees(badges.described(name), methods.of(name))


@pytest.mark.parametrize("name, expected", [("gd", 0), ("lion", 1), ("adamw", 2)])
def test_known_states_are_measured_exactly(name, expected):
    assert methods.of(name).state == expected


def test_low_rank_methods_keep_less_than_adamw():
    assert 0 < methods.of("galore").state < methods.of("adamw").state


def test_another_state_or_badge_does_not_agree():
    kept = methods.of("lion")
    assert badges.agrees(kept, kept)
    for other in (
        None,
        methods.Method("formula", kept.tests, kept.state, kept.measured_on),
        methods.Method(kept.badge, kept.tests, 1.1, kept.measured_on),
        methods.Method(kept.badge, (), kept.state, kept.measured_on),
    ):
        assert not badges.agrees(kept, other)


def test_evidence_is_of_tests_and_submissions_that_exist():
    for name, method in methods.methods().items():
        assert name in discover.submissions()
        for each in method.tests:
            file, test = each.test.split(": ")
            assert f"def {test}(" in (discover.ROOT / file).read_text()


def test_the_best_evidence_counts():
    known = badges.earned()
    assert badges.badge(known["lion"]) == "reference"
    packages = {e.package for e in known["lion"]}
    assert packages >= {"lion-pytorch", "pytorch_optimizer"}
    # by a literal list of names, by the test's own name
    assert badges.badge(known["gd"]) == "formula"
    assert badges.badge(known["subgm"]) == "formula"
    assert badges.badge([Evidence("self-consistent", "")]) == "self-consistent"
    assert badges.badge([]) is None
    assert badges.badge([Evidence(b, "") for b in reversed(BADGES)]) == BADGES[0]


def test_nothing_is_known_of_a_submission_of_ones_own():
    assert methods.of("mine") == methods.Method()
    assert methods.of("mine").words == "-"


@pytest.mark.parametrize("text", [None, "{", '{"lion": {}}', "[]"])
def test_a_damaged_file_is_said(text, tmp_path, monkeypatch):
    path = tmp_path / "methods.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(methods, "PATH", path)
    with pytest.raises(UserError, match=r"methods\.json cannot be read.*version control"):
        methods.methods.__wrapped__()


def test_a_file_that_departs_from_its_paper_says_how():
    for name in FILES:
        text = discover.read(discover.find(name)).doc
        assert re.search(r"^Departures from the paper: \S", text, re.MULTILINE), name


def test_every_method_has_a_workload_that_it_fits():
    tracks = {name: discover.tracks(discover.read(discover.find(name))) for name in NAMES}
    assert not [name for name in NAMES if track(methods.home(name)) not in tracks[name]]


@cache
def track(place: str) -> str:
    """Return the track of a workload's mini."""
    return track_of(tree_of(place), "mini", None)


@pytest.mark.parametrize(
    "name, home",
    [("muon", "gpt2"), ("token_walk", "fed"), ("l2rw", "clean"), ("nowhere_at_all", "")],
)
def test_known_homes(name, home):
    assert methods.home(name) == home
