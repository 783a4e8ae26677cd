"""Laws of target setting: the target is what its rule names, and YAML keeps its comments."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness.campaign import target, target_files, targeting
from harness.catalog import discover
from harness.catalog.definition import define, tree_of
from harness.cli.commands import target as target_command
from harness.errors import UserError
from harness.records.run import RecordedRun

ROOT = Path(__file__).resolve().parents[2]
PROCEDURE = target.Procedure("share", ("adamw",), share=0.75, digits=3)
LOSS = {"loss": {"at_most": 3.0}}


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


def test_the_target_is_the_mean_of_last_values_one_standard_error_easier():
    values = (3.0, 3.1, 3.2, 3.1, 3.1)
    error = 0.0316227766  # of these five: 0.0707 / sqrt(5)
    assert target.propose([run(falling(x)) for x in values], LOSS, PROCEDURE) == {
        "loss": {"at_most": math.ceil((3.1 + error) * 100) / 100}
    }
    goal = {"accuracy": {"at_least": 0.1}}
    seeds = [run([x * i / 8 for i in range(9)], goal) for x in (0.8, 0.9, 1.0)]
    assert target.propose(seeds, goal, PROCEDURE) == {
        "accuracy": {"at_least": 0.842}
    }  # 0.9 - 0.0577


def test_a_last_value_counts_where_the_other_conditions_hold():
    goal = LOSS | {"sparsity": {"at_least": 0.8}}
    late = {"sparsity": [0, 0, 0, 0, 0, 0, 0, 0.8, 0.8]}
    never = {"sparsity": [0.5] * 9}
    assert target.last(run(falling(3.0), goal, late), goal) == 3.0
    assert target.last(run(falling(3.0), goal, never), goal) == math.inf
    assert target.last(run(falling(3.0), goal, late, stopped=True), goal) == math.inf
    seeds = [run(falling(3.0), goal, late), run(falling(3.0), goal, never)]
    with pytest.raises(UserError, match="1 of 2 seeds have no last loss"):
        target.propose(seeds, goal, PROCEDURE)


def test_the_signal_is_the_last_fifth_of_the_budget_over_the_scatter_of_seeds():
    # a loss that falls by 4 % from four fifths of the budget on; seeds 1 % apart
    scatter = [math.exp(0.01 * x) for x in (-1, 0, 1)]  # standard deviation 0.01 of the logarithm
    runs = [run([9.0] * 4 + [3.0 * x, 2.88 * x]) for x in scatter]
    assert target.signal(runs, LOSS) == pytest.approx(-math.log(0.96) / 0.01)
    # an accuracy by its own value
    goal = {"accuracy": {"at_least": 0.9}}
    runs = [run([0.1 * i + x for i in range(11)], goal) for x in (-0.1, 0.0, 0.1)]
    assert target.signal(runs, goal) == pytest.approx(0.2 / 0.1)
    # equal values, or one that is missing, have no signal
    assert math.isnan(target.signal(runs[:1] * 3, goal))
    assert math.isnan(target.signal([run([0.0, None], goal)] * 2, goal))


def test_a_streams_qualities_are_its_worst_ends_less_the_margin_and_its_bounds_stay():
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
        "accuracy": {"at_least": 0.63},  # 0.9 * 0.70
        "worst_case_accuracy": {"at_least": 0.31},  # 0.9 * 0.355, downwards
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
        ([0.9, 0.95, math.inf], "share", "2 of 3 seeds .*not all: a smaller share"),
        ([0.3, 0.4, 0.45], "stated", "at 40% of the budget"),
        ([0.9, 0.96, 0.97], "stated", "a horizon of about 1300"),
        ([0.7, math.inf, math.inf], "stated", "1 of 3 seeds .*a horizon above 1000"),
        ([1.0, 1.0, 1.0], "stream", None),
        ([1.0, 1.0, math.inf], "stream", "a larger margin"),
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
    racing = targeting.Racing("gpt2", procedure, "mini", "strict")
    tuning = racing.tuning()
    definition = tuning[0].definition
    assert racing.seeding(tuning) == []

    def recorded(pair, job, last):
        made = run(falling(last))
        made.record.update(
            submission=pair.submission, hp={"lr": last}, trial=job[1], study=0, seed=job[2],
            run_id=f"{pair.submission}{job}", metric="loss", best={"loss": last},
            training_hash=definition.training_hash, submission_hash="x",
            budget={"factor": pair.budget(job), "steps": 1},
        )  # fmt: skip
        pair.found[job] = made

    for pair, values in zip(tuning, ([3.4, 3.2], [3.3, 3.1]), strict=True):
        for job, last in zip(pair.tuning, values, strict=True):
            recorded(pair, job, last)
    first, second = racing.seeding(tuning)
    assert (first.submission, first.hp, first.until) == ("nadamw", {"lr": 3.1}, "budget")
    assert (list(first.seeds), list(second.seeds)) == ([1, 2, 3], [4, 5, 6])
    jobs = [list(pair.ready()) for pair in (first, second)]
    assert [pair.budget(job) for pair, (job, *_) in zip((first, second), jobs, strict=True)] == [
        0.75,
        1,
    ]
    assert first.config(jobs[0][0], "results")["isolation"] == "strict"
    with pytest.raises(UserError, match="nadamw: 3 of 3 runs are missing"):
        targeting.decide(tuning, [first, second], procedure)
    for job, last in zip(jobs[0], (3.1, 3.2, 3.3), strict=True):
        recorded(first, job, last)
    for job, last in zip(jobs[1], (3.0, 3.05, 3.1), strict=True):
        recorded(second, job, last)
    decision = targeting.decide(tuning, [first, second], procedure)
    assert decision.definition.block["goal"] == {"loss": {"at_most": 3.26}}  # 3.2 + 0.0577
    assert decision.changed
    assert decision.reached.shares == [6 / 8, 6 / 8, 7 / 8]
    assert decision.signal > 0
    assert len(decision.trials) == 4

    numbers = tmp_path / "gpt2.yaml"
    monkeypatch.setattr(targeting, "numbers_path", lambda plugin: numbers)
    monkeypatch.setattr(type(definition), "frozen", tmp_path / "reference")
    monkeypatch.setattr(targeting, "commit", lambda pairs, results: [f"{len(pairs)} pairs"])
    pairs = [*tuning, first, second]
    lines = targeting.write(decision, procedure, pairs, tmp_path, "harness target x")
    assert lines == ["4 pairs"]
    assert "goal: {loss: {at_most: 3.26}}" in numbers.read_text()
    frozen = json.loads((tmp_path / "reference" / "gpt2.mini.json").read_text())
    assert (frozen["submission"], frozen["hp"]) == ("nadamw", {"lr": 3.1})
    assert (frozen["seeds"], frozen["times"]) == ([4, 5, 6], [12.0, 12.0, 14.0])
    evidence = json.loads((tmp_path / "reference" / "gpt2.mini.target.json").read_text())
    assert evidence["command"] == "harness target x"
    assert len(evidence["trials"]) == 4
    assert [one["last"] for one in evidence["first"]] == [3.1, 3.2, 3.3]
    assert evidence["signal"] == decision.signal
    judged = {run.record["workload_hash"] for pair in pairs for run in pair.found.values()}
    assert judged == {decision.definition.hash}


def test_a_references_time_is_measured_as_everybodys(tmp_path, monkeypatch):
    racing = targeting.Racing("gpt2", replace(PROCEDURE, trials=1), "mini", "process")
    pair = racing.answer("nadamw")
    assert (pair.ruleset["ladder"], pair.ruleset["trials"], pair.ratio) == (0.8, 1, 0.8)
    monkeypatch.setattr(type(pair.definition), "frozen", tmp_path)

    def recorded(job, last):
        made = run(falling(last), LOSS)
        reached = last <= 2.9
        made.record.update(
            submission="nadamw", hp={"lr": 1.0}, trial=job.trial, study=0, seed=job.seed,
            run_id="r",
            outcome="reached" if reached else "out_of_budget", time=14.0 if reached else None,
            crossing={"step": 70} if reached else None, prices=None,
            workload_hash=pair.definition.hash, submission_hash="x", metric="loss",
            best={"loss": last}, budget={"factor": pair.budget(job), "steps": 1},
        )  # fmt: skip
        pair.done[job], pair.found[job] = {}, made

    while jobs := [job for job in pair.ready() if job not in pair.done]:
        for job in jobs:  # every share from 0.64 down misses
            recorded(job, 3.1 if (job.share or 1) < 0.7 else 2.9)
    best = targeting.measure(pair)
    frozen = json.loads((tmp_path / f"{pair.definition.key}.json").read_text())
    assert (best.share, frozen["budget"], frozen["seeds"]) == (0.8, 0.8, [1, 2, 3])
    recorded(next(job for job in pair.found if job.trial is None), 3.1)
    with pytest.raises(UserError, match=r"at 0.8 of the budget 1 of 3 seeds of the reference miss"):
        targeting.measure(pair)


@pytest.mark.parametrize(
    "words, said",
    [
        (["compress_gpt2.bits_9"], "no variant 'bits_9' at scale mini; did you mean bits_8"),
        (["gpt2", "--scale", "huge"], "no scale 'huge'"),
        (["gpt2.relu"], "no procedure for 'gpt2.relu'"),
    ],
)
def test_a_workload_that_does_not_exist_is_told_before_its_procedure(words, said):
    with pytest.raises(UserError, match=said):
        target_command.run(words)
