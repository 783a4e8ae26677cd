"""Laws of target setting: the target is the median its rule names, and YAML keeps its comments."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness.campaign import target, target_files, targeting
from harness.catalog import discover
from harness.catalog.definition import define, tree_of
from harness.errors import UserError
from harness.records.run import RecordedRun

ROOT = Path(__file__).resolve().parents[2]
PROCEDURE = target.Procedure("share", ("adamw",), share=0.75, digits=3)


def run(values, goal=None, others=None, before=None, stopped=False) -> RecordedRun:
    """A record whose goal's first metric takes these values over ten steps."""
    goal = goal or {"loss": {"at_most": 3.0}}
    metric, n = next(iter(goal)), len(values)
    horizon = 10 * (n - 1)
    columns = {
        "step": [10 * i for i in range(n)],
        "seconds": [2.0 * i for i in range(n)],
        "low": [None] * n,
        "high": [None] * n,
        "metrics": {metric: values} | (others or {}),
    }
    if before:
        columns["before"] = before
    record = {
        "step": horizon - 10 * stopped,
        "horizon": horizon,
        "goal": goal,
        "evaluations": columns,
        "outcome": "out_of_budget",
        "time": None,
        "workload_hash": "old",
        "training_hash": "same",
    }
    return RecordedRun(record, [], {})


def falling(last: float) -> list[float]:
    return [last + 0.1 * (8 - i) for i in range(9)]


def test_the_target_is_the_median_at_the_share_rounded_to_the_easier_side():
    seeds = [run(falling(x)) for x in (3.0012, 3.1012, 3.0512)]
    assert target.propose(seeds, {"loss": {"at_most": 9.0}}, PROCEDURE) == {
        "loss": {"at_most": 3.26}  # 3.0512 + 0.1 * 2 at six of eight evaluations, upwards
    }
    goal = {"accuracy": {"at_least": 0.1}}
    seeds = [run([x * i for i in range(9)], goal) for x in (0.1, 0.1111, 0.12)]
    assert target.propose(seeds, goal, PROCEDURE) == {"accuracy": {"at_least": 0.666}}


def test_a_value_counts_where_the_other_conditions_hold():
    goal = {"loss": {"at_most": 9.0}, "sparsity": {"at_least": 0.8}}
    late = {"sparsity": [0, 0, 0, 0, 0, 0, 0, 0.8, 0.8]}
    never = {"sparsity": [0.5] * 9}
    assert target.at_share(run(falling(3.0), goal, late), goal, 0.5) == pytest.approx(3.1)
    assert target.at_share(run(falling(3.0), goal, never), goal, 0.5) == math.inf
    assert target.last(run(falling(3.0), goal, late), goal) == 3.0
    assert target.last(run(falling(3.0), goal, never), goal) == math.inf
    assert target.last(run(falling(3.0), goal, late, stopped=True), goal) == math.inf
    with pytest.raises(UserError, match="most seeds have no loss"):
        target.propose([run(falling(3.0), goal, never)] * 3, goal, PROCEDURE)


def test_a_streams_qualities_are_its_ends_less_the_margin_and_its_bounds_stay():
    goal = {
        "accuracy": {"at_least": 0.1},
        "worst_case_accuracy": {"at_least": 0.1},
        "memory": {"at_most": 100},
    }
    seeds = [
        run(
            [0.0, x],
            goal,
            {"worst_case_accuracy": [0.0, x / 2], "memory": [10, 10]},
            {"accuracy": x - 0.01, "worst_case_accuracy": x, "memory": 10},
        )
        for x in (0.81, 0.85, 0.71)
    ]
    rule = replace(PROCEDURE, rule="stream", margin=0.1, digits=2)
    assert target.propose(seeds, goal, rule) == {
        "accuracy": {"at_least": 0.72},  # 0.9 * 0.80
        "worst_case_accuracy": {"at_least": 0.36},  # 0.9 * 0.405, downwards
        "memory": {"at_most": 100},
    }


def test_a_stated_goal_stays():
    goal = {"relative_error": {"at_most": 1e-6}}
    assert target.propose([], goal, replace(PROCEDURE, rule="stated")) == goal


@pytest.mark.parametrize(
    "value, digits, direction, near",
    [
        (3.8994, 3, "at_most", 3.9),
        (3.9, 3, "at_most", 3.9),
        (0.29, 2, "at_most", 0.29),
        (0.9299, 3, "at_least", 0.929),
        (1.23456e-5, 2, "at_most", 1.3e-5),
        (123.4, 2, "at_least", 120.0),
        (0.0, 2, "at_least", 0.0),
    ],
)
def test_rounding_is_never_harder(value, digits, direction, near):
    assert target.rounded(value, digits, direction) == pytest.approx(near, rel=1e-12)


@pytest.mark.parametrize(
    "shares, rule, said",
    [
        ([0.6, 0.7, 0.8], "share", None),
        ([0.3, 0.4, 0.45], "share", "at 40% of the budget"),
        ([0.9, 0.95, 0.97], "stated", "a horizon of about 1400"),
        ([0.7, math.inf, math.inf], "stated", "only 1 of 3 seeds .*a horizon above 1000"),
        ([1.0, 1.0, math.inf], "stream", None),
        ([1.0, math.inf, math.inf], "stream", "a larger margin"),
    ],
)
def test_a_reference_out_of_range_is_refused_with_what_would_mend_it(shares, rule, said):
    found = target.Reached(shares, [100 * s for s in shares], 0)
    told = target.complaint(found, replace(PROCEDURE, rule=rule), 1000)
    assert (told is None) == (said is None)
    if said:
        import re

        assert re.search(said, told)


def test_seeds_are_judged_by_the_new_goal():
    tree = tree_of("gpt2")
    tree["mini"]["goal"] = {"loss": {"at_most": 3.5}}
    definition = define("gpt2", tree, "mini", None)
    seeds = [run(falling(x)) for x in (3.0, 3.2, 3.3)]
    for one in seeds:
        one.record["training_hash"] = definition.training_hash
    found = target.reached(seeds, definition)
    assert found.shares == [3 / 8, 5 / 8, 6 / 8]
    assert (found.share, found.times, found.middle) == (5 / 8, [6.0, 10.0, 12.0], 1)


@pytest.mark.parametrize("name", sorted(target.read_procedures(ROOT / "conf/targets.yaml")))
def test_every_procedure_names_what_exists_and_its_goal_can_be_written(name):
    procedure = target.read_procedures(ROOT / "conf/targets.yaml")[name]
    bare, _, variant = name.partition(".")
    tree = tree_of(bare)
    definition = define(bare, tree, "mini", variant or None)
    for candidate in procedure.candidates:
        tracks = discover.read(discover.find(candidate)).literals.get("TRACKS", ["train"])
        assert definition.track in tracks
    assert (procedure.rule == "stream") == ("stream" in definition.block)
    path = target_files.yaml_of(bare, ROOT)
    names = target.qualities(definition.block["goal"])
    moved = {
        metric: {k: v * 1.25e-7 for k, v in condition.items()} if metric in names else condition
        for metric, condition in definition.block["goal"].items()
    }
    text = target_files.with_goal(path.read_text(), "mini", variant or None, moved)
    made = yaml.safe_load(text)
    before = yaml.safe_load(path.read_text())
    block = made["mini"]["variants"][variant] if variant else made["mini"]
    assert block["goal"] == moved
    (before["mini"]["variants"][variant] if variant else before["mini"])["goal"] = moved
    assert made == before  # nothing else
    assert text.count("#") >= path.read_text().count("#") - len(names)
    before, goal = path.read_text(), definition.block["goal"]
    assert target_files.with_goal(before, "mini", variant or None, goal) == before


def test_a_variant_without_a_goal_of_its_own_is_refused():
    text = target_files.yaml_of("gpt2", ROOT).read_text()
    with pytest.raises(UserError, match=r"mini\.relu has no goal of its own"):
        target_files.with_goal(text, "mini", "relu", {"loss": {"at_most": 1.0}})


def test_a_target_is_decided_from_the_pairs_and_written_with_its_evidence(tmp_path, monkeypatch):
    procedure = replace(PROCEDURE, candidates=("adamw", "nadamw"), trials=2, seeds=3)
    tuning = targeting.tuning_pairs("gpt2", procedure, "mini")
    definition = tuning[0].definition
    assert targeting.seeding_pair("gpt2", procedure, "mini", tuning) is None

    def recorded(pair, job, last):
        made = run(falling(last))
        made.record.update(
            submission=pair.submission, hp={"lr": last}, trial=job[1], study=0, seed=job[2],
            run_id=f"{pair.submission}{job}", metric="loss", best={"loss": last},
            training_hash=definition.training_hash, submission_hash="x",
        )  # fmt: skip
        pair.found[job] = made

    for pair, values in zip(tuning, ([3.4, 3.2], [3.3, 3.1]), strict=True):
        for job, last in zip(pair.tuning, values, strict=True):
            recorded(pair, job, last)
    seeding = targeting.seeding_pair("gpt2", procedure, "mini", tuning)
    assert (seeding.submission, seeding.hp, seeding.until) == ("nadamw", {"lr": 3.1}, "budget")
    with pytest.raises(UserError, match="nadamw: 3 of 3 runs are missing"):
        targeting.decide(tuning, seeding, procedure)
    for seed, last in enumerate((3.0012, 3.1012, 3.0512), 1):
        recorded(seeding, (0, None, seed), last)
    decision = targeting.decide(tuning, seeding, procedure)
    assert decision.definition.block["goal"] == {"loss": {"at_most": 3.26}}
    assert (decision.changed, decision.reached.share) == (True, 0.75)
    assert len(decision.trials) == 4

    numbers = tmp_path / "gpt2.yaml"
    monkeypatch.setattr(targeting, "numbers_path", lambda plugin: numbers)
    monkeypatch.setattr(type(definition), "frozen", tmp_path / "reference")
    monkeypatch.setattr(targeting, "commit", lambda pairs, results: [f"{len(pairs)} pairs"])
    lines = targeting.write(decision, procedure, [*tuning, seeding], tmp_path, "harness target x")
    assert lines == ["3 pairs"]
    assert "goal: {loss: {at_most: 3.26}}" in numbers.read_text()
    frozen = json.loads((tmp_path / "reference" / "gpt2.mini.json").read_text())
    assert (frozen["submission"], frozen["hp"], frozen["seeds"]) == (
        "nadamw",
        {"lr": 3.1},
        [1, 2, 3],
    )
    evidence = json.loads((tmp_path / "reference" / "gpt2.mini.target.json").read_text())
    assert evidence["command"] == "harness target x"
    assert len(evidence["trials"]) == 4
    judged = {run.record["workload_hash"] for pair in tuning for run in pair.found.values()}
    assert judged == {decision.definition.hash}
