"""Laws of search spaces: points are a function of their number, in range, and of the right type."""

import math
import subprocess
import sys
from keyword import iskeyword

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.catalog import discover, identity, space
from harness.errors import UserError
from tests.support.racing import ROOT

POSITIVE = st.floats(1e-8, 1e6)
REAL = st.floats(-1e6, 1e6)
VALUES = st.one_of(st.integers(-9, 9), st.booleans(), st.sampled_from(["a", "b", "none"]))


def pair(values):
    """Two bounds, well apart."""
    return st.tuples(values, values).map(sorted).filter(lambda b: b[1] - b[0] > 1e-3 * abs(b[1]))


def ranges():
    return st.one_of(
        pair(POSITIVE).map(lambda b: {"log": b}),
        pair(REAL).map(lambda b: {"linear": b}),
        st.tuples(st.integers(-99, 99), st.integers(1, 99)).map(lambda b: {"int": [b[0], sum(b)]}),
        st.lists(VALUES, min_size=1, max_size=4, unique_by=repr).map(lambda c: {"choice": c}),
    )


NAMES = st.text("abcdefghij_", min_size=1, max_size=6).filter(
    lambda n: not iskeyword(n) and n not in ("name", "path")
)
SPACES = st.dictionaries(NAMES, st.one_of(ranges(), VALUES, REAL), max_size=5)


def inside(value, spec):
    if not isinstance(spec, dict):
        return value == spec
    if "choice" in spec:
        return any(value is c or value == c for c in spec["choice"])
    low, high = next(iter(spec.values()))
    slack = 1e-5 * max(abs(low), abs(high))  # points are rounded to six digits
    whole = isinstance(value, int) if "int" in spec else isinstance(value, float)
    return whole and low - slack <= value <= high + slack


@given(SPACES, st.integers(0, 3), st.integers(0, 200))
def test_every_point_is_in_its_space_and_repeats(declared, study, index):
    space.validate(declared, "here")
    point = space.point(declared, study, index)
    assert set(point) == set(declared)
    assert all(inside(point[name], spec) for name, spec in declared.items())
    assert repr(point) == repr(space.point(declared, study, index))


@given(SPACES, st.integers(0, 50))
def test_a_point_can_be_asked_for_by_its_values(declared, index):
    for values in (space.default(declared), space.point(declared, 0, index)):
        for name, value in values.items():
            assert space.check(declared, name, value, "here") == value


@given(SPACES)
def test_the_default_is_the_centre(declared):
    for name, value in space.default(declared).items():
        spec = declared[name]
        if isinstance(spec, dict) and "log" in spec:
            low, high = spec["log"]
            assert math.isclose(value, math.sqrt(low * high), rel_tol=1e-5)
        elif isinstance(spec, dict) and "linear" in spec:
            assert math.isclose(value, sum(spec["linear"]) / 2, rel_tol=1e-5, abs_tol=1e-3)
        else:
            assert inside(value, spec)


def test_points_fill_the_space():
    """The first 16 points of a Sobol sequence are one in each sixteenth, in both dimensions."""
    declared = {"x": {"linear": [0.0, 1.0]}, "y": {"linear": [0.0, 1.0]}}
    points = [space.point(declared, 0, i) for i in range(16)]
    for name in declared:
        assert sorted(int(16 * p[name]) for p in points) == list(range(16))


def test_studies_are_different_sequences():
    declared = {"x": {"log": [1e-4, 1.0]}}
    first = {study: space.point(declared, study, 0)["x"] for study in range(20)}
    assert len(set(first.values())) == 20


def test_points_are_the_same_in_every_process():
    declared = {"b": {"log": [1e-4, 1.0]}, "a": {"int": [1, 9]}, "c": {"choice": ["x", "y", "z"]}}
    points = f"[space.point({declared}, 1, i) for i in range(5)]"
    code = f"from harness.catalog import space; print({points})"
    for hashing in ("0", "1"):
        told = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hashing, "PATH": ""},
        ).stdout  # fmt: skip
        assert told.strip() == repr([space.point(declared, 1, i) for i in range(5)])


SPACE = {
    "lr": {"log": [1e-4, 1e-2]},
    "depth": {"int": [1, 4]},
    "nesterov": {"choice": [True, False]},
    "wd": 0.1,
    "steps": 3,
}


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("lr", 1.0, "outside its range"),
        ("lr", float("nan"), "outside its range"),
        ("lr", "fast", "not a number"),
        ("lr", True, "not a number"),
        ("lr", [1], "not a number"),
        ("depth", 1.5, "not an integer"),
        ("depth", float("inf"), "not an integer"),
        ("nesterov", 1, "not allowed"),
        ("nesterov", "yes", "not allowed"),
        ("wd", "small", "not of the type"),
        ("steps", 2.5, "not of the type"),
        ("steps", True, "not of the type"),
        ("lrr", 1.0, "did you mean lr"),
    ],
)
def test_a_wrong_value_is_refused_in_words(name, value, said):
    with pytest.raises(UserError, match=said):
        space.check(SPACE, name, value, "here")


@pytest.mark.parametrize(
    "name, value, taken", [("lr", 1e-3, 1e-3), ("depth", 2.0, 2), ("wd", 1, 1.0)]
)
def test_a_right_value_takes_the_declared_type(name, value, taken):
    found = space.check(SPACE, name, value, "here")
    assert found == taken
    assert type(found) is type(taken)


@pytest.mark.parametrize(
    "declared",
    [
        {"x": {"log": [0.0, 1.0]}},
        {"x": {"log": [1.0, 0.1]}},
        {"x": {"linear": [1.0]}},
        {"x": {"linear": ["a", "b"]}},
        {"x": {"linear": [1, "b"]}},
        {"x": {"int": [0.5, 3]}},
        {"x": {"log": 3}},
        {"x": {"choice": []}},
        {"x": {"log": [1, 2], "linear": [1, 2]}},
        {"x": {"lgo": [1, 2]}},
        {"x": {}},
        {"x": {"log": [1e-3, 1e-1], "default": 1.0}},
        {"x": {"linear": [0.0, float("inf")]}},
        {"x": [1, "b"]},
        {"not a name": 1},
        {"lambda": 1},
        {"name": 1},
        {"path": 1},
        {3: 1},
    ],
)
def test_a_malformed_space_is_refused(declared):
    with pytest.raises(UserError, match=r"^here: "):
        space.validate(declared, "here")


def test_the_goal_decides_what_it_may_ask_for_and_no_trial_tunes_it():
    declared = {
        "lr": {"log": [1e-3, 1e-1]},
        "sparsity": {"linear": [0.0, 0.99], "default": 0.8, "goal": "sparsity"},
        "bits": {"int": [2, 8], "default": 4, "goal": "bits"},
        "two_four": {"choice": [False, True], "goal": "two_four"},
    }
    space.validate(declared, "mine.py")
    quiet = space.asked(declared, {"loss": {"at_most": 1.0}}, "mine")
    assert {k: v for k, v in quiet.items() if k != "lr"} == {
        "sparsity": 0.8, "bits": 4, "two_four": False,
    }  # fmt: skip
    goal = {
        "loss": {"at_most": 1.0}, "sparsity": {"at_least": 0.9}, "bits": {"at_most": 3.0},
        "two_four": {"at_least": 1.0},
    }  # fmt: skip
    loud = space.asked(declared, goal, "mine")
    points = [space.point(loud, 0, i) for i in range(8)]
    assert len({p["lr"] for p in points}) == 8
    assert {(p["sparsity"], p["bits"], p["two_four"]) for p in points} == {(0.9, 3, True)}
    assert [type(points[0][k]) for k in ("sparsity", "bits", "two_four")] == [float, int, bool]
    with pytest.raises(UserError, match="outside its range"):
        space.asked(declared, {"sparsity": {"at_least": 0.999}}, "mine")
    with pytest.raises(UserError, match="not a range"):
        space.validate({"x": {"int": [1, 2], "goal": 3}}, "mine.py")


def test_no_trial_draws_a_value_that_is_not_tuned():
    declared = {
        "lr": {"log": [1e-3, 1e-1]},
        "kind": {"choice": ["plain", "other"], "tuned": False},
    }
    space.validate(declared, "mine.py")
    points = [space.point(declared, 0, i) for i in range(8)]
    assert {p["kind"] for p in points} == {"plain"}
    assert len({p["lr"] for p in points}) == 8
    assert points[3]["lr"] == space.point({"lr": declared["lr"]}, 0, 3)["lr"]
    assert space.check(declared, "kind", "other", "mine") == "other"
    with pytest.raises(UserError, match="not a range"):
        space.validate({"x": {"int": [1, 2], "tuned": "no"}}, "mine.py")


# Recorded, so that their points stay: what they draw of a variant is stated in their docstrings.
DRAWN = {
    "alim": {"target"}, "fedavg": {"server"}, "f2sa": {"rising"}, "private_sgd": {"automatic"},
    "robust_loss": {"kind"},
}  # fmt: skip
OURS = ("data", "distributed", "private", "bilevel", "samplers", "tuners")


def test_no_trial_of_a_method_draws_a_variant_of_it():
    """A trial of `margin` may not be one of `entropy`; numbers on a range are another matter."""
    drawn = {}
    for name, plugin in discover.submissions().items():
        if plugin.path.parent.name not in OURS or plugin.path.stem != name:
            continue
        card = discover.read(plugin)
        fixed = {k for values in card.literals.get("VARIANTS", {}).values() for k in values}
        choices = {
            k
            for k, spec in card.literals["SPACE"].items()
            if k in fixed
            and isinstance(spec, dict)
            and "choice" in spec
            and spec.get("tuned", True)
        }
        if choices:
            drawn[name] = choices
    assert drawn == DRAWN


def test_a_point_stays_in_a_range_narrower_than_its_digits():
    for kind in ("log", "linear"):
        declared = {"x": {kind: [1.00000012, 1.00000019]}}
        space.validate(declared, "here")
        for index in range(8):
            value = space.point(declared, 0, index)["x"]
            assert space.check(declared, "x", value, "here") == value


def test_another_order_of_space_is_another_submission(tmp_path):
    """Points follow the order of SPACE, so equal identities have equal points."""
    hashes, points = set(), []
    for place, names in enumerate((("lr", "beta"), ("beta", "lr"))):
        ranges = ", ".join(f'"{name}": {{"linear": [0.0, 1.0]}}' for name in names)
        folder = tmp_path / str(place)
        folder.mkdir()
        path = folder / "mine.py"
        path.write_text(
            f"SPACE = {{{ranges}}}\ndef init(params, hp): return {{}}\n"
            "def update(params, grads, state, hp, progress): hp.lr, hp.beta\n"
        )
        plugin = discover.find(str(path))
        hashes.add(identity.source_hash(plugin))
        points.append(space.point(discover.read(plugin).literals["SPACE"], 0, 1))
    assert len(hashes) == 2
    assert points[0] != points[1]
