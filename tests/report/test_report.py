"""Laws of the report: equal records give equal bytes, and nothing about a record is silent."""

import csv
import json
import math
import random
import re
import resource
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import pytest
from scipy.stats import t as student

from harness.catalog import discover, identity, methods
from harness.cli import main
from harness.records.collect import collect, read_folder
from harness.records.compact import signed, write_compact
from harness.records.references import references
from harness.report.board import drawing
from harness.report.board.board import boards
from harness.report.board.marks import MARKS
from harness.system.files import atomic_json, sha256_of
from tests.support import records


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def board(results, **kwargs):
    """The one board that the records make, and everything left out."""
    found = collect([results])
    made = boards(found, references([results]))
    assert len(made) == 1
    return made[0], dict(found.left_out)


def row(results, name="adamw"):
    return next(r for r in board(results)[0].rows if r.name == name)


def seeds(results, crossings, submission="adamw", workload="alpha", **changes):
    for seed, crossing in enumerate(crossings, 1):
        records.folder(
            results, *records.record(submission, workload, seed, None, crossing, **changes)
        )


def test_score_and_interval_are_rederived_from_the_raw_logs(results):
    """By code that shares nothing with the report: crossings from log.jsonl, a plain bootstrap."""
    workloads = {"alpha": 40.0, "beta": 30.0}
    for workload, time_ in workloads.items():
        records.reference(results, workload, time_)
    seeds(results, [10, 12, 13], workload="alpha")
    seeds(results, [14, None, 11, 12], workload="beta")
    logs = {w: sorted((results / "runs" / w / "adamw").glob("*/log.jsonl")) for w in workloads}
    costs = {
        w: [math.log(min(_crossing(path), 4 * workloads[w]) / workloads[w]) for path in paths]
        for w, paths in logs.items()
    }
    means = {w: statistics.mean(values) for w, values in costs.items()}
    found = row(results).headline
    assert found.score == pytest.approx(math.exp(-statistics.mean(means.values())))
    draw, sample = random.Random(0), []
    for _ in range(4000):
        total = 0.0
        for w, values in costs.items():
            n = len(values)
            one = statistics.mean(draw.choices(values, k=n))
            total += (one - means[w]) * math.sqrt(n / (n - 1)) / 2
        sample.append(total)
    # to Student's t, with Satterthwaite's degrees of freedom
    parts = {w: statistics.variance(values) / len(values) for w, values in costs.items()}
    freedom = sum(parts.values()) ** 2 / sum(v**2 / (len(costs[w]) - 1) for w, v in parts.items())
    factor = student.ppf(0.975, freedom) / statistics.NormalDist().inv_cdf(0.975)
    sample.sort(reverse=True)
    low, high = (
        found.score * math.exp(-min(factor * sample[i], math.log(4 * found.score)))
        for i in (100, 3900)
    )
    assert found.low == pytest.approx(low, rel=0.04)
    assert found.high == pytest.approx(high, rel=0.04)


def _crossing(path: Path) -> float:
    """Return the time of the first of two evaluations in a row at or below 3.0; inf without one.

    Between that evaluation and the one before, the logarithm of the loss falls evenly.
    """
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [
        (r["reference_seconds"], r["metrics"]["loss"]) for r in rows if r["event"] == "evaluation"
    ]
    for before, here, after in zip(rows, rows[1:], rows[2:]):
        if here[1] <= 3.0 and after[1] <= 3.0:
            share = math.log(before[1] / 3.0) / math.log(before[1] / here[1])
            return before[0] + share * (here[0] - before[0])
    return math.inf


def test_the_report_is_the_same_bytes_again(results, tmp_path, capsys):
    records.campaign(results, {"adamw": 1.0, "lion": 1.3, "sgd": 0.4})
    seeds(results, [None, 12], submission="muon")
    for out in ("one", "two"):
        assert main.main(["report", str(results), "--out", str(tmp_path / out)]) == 0
    files = sorted(
        p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()
    )
    assert {"LEADERBOARD.md", "index.html", "leaderboard.csv", "runs.csv"} <= {
        str(f) for f in files
    }
    assert len([f for f in files if f.suffix == ".svg"]) >= 5
    for file in files:
        assert sha256_of(tmp_path / "one" / file) == sha256_of(tmp_path / "two" / file), file
    told = capsys.readouterr().out
    assert "index.html" in told
    page = (tmp_path / "one" / "index.html").read_text()
    assert not re.search(r'(src|href)="(?!#|https://arxiv\.org/)', page), (
        "the page asks for something"
    )
    assert "@import" not in page
    assert "url(" not in page.replace("url(#", "")
    table = list(csv.DictReader((tmp_path / "one" / "leaderboard.csv").read_text().splitlines()))
    assert [r["submission"] for r in table][:2] == ["lion", "adamw"]
    assert (table[0]["rank_best"], table[1]["rank_best"]) == ("1", "2")


def test_without_records_it_is_an_error_that_names_the_place(results, tmp_path, capsys):
    results.mkdir()
    for place in (results, tmp_path / "nothing"):
        assert main.main(["report", str(place), "--out", str(tmp_path / "out")]) == 2
        assert str(place) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_seed_has_a_score_but_no_interval_and_no_rank(results):
    records.reference(results)
    seeds(results, [12])
    found = row(results)
    assert found.headline.score == pytest.approx(40 / records.interpolated(12))
    assert (found.headline.low, found.rank) == (None, None)
    assert "one seed" in found.marks


def test_all_misses_score_a_quarter(results):
    records.reference(results)
    seeds(results, [None, None])
    found = row(results)
    assert found.headline.score == pytest.approx(0.25)
    assert "all missed" in found.marks


def test_equal_submissions_tie_and_a_clearly_faster_one_does_not(results):
    records.campaign(results, {"adamw": 1.0, "lion": 1.0, "muon": 2.0}, scatter=0.02)
    made, _ = board(results)
    assert {r.name: r.rank_text() for r in made.rows} == {
        "muon": "1",
        "adamw": "2–3",
        "lion": "2–3",
    }


def test_a_time_that_is_no_number_is_left_out_and_a_diverged_run_is_a_miss(results):
    records.reference(results)
    seeds(results, [12, 12])
    records.folder(results, *records.record(seed=7, time=math.nan))
    records.folder(
        results,
        *records.record(
            seed=8,
            crossing=None,
            outcome="diverged",
            best={"loss": math.nan},
            final={"loss": math.nan},
        ),
    )
    made, left_out = board(results)
    assert list(left_out.values()) == ["damaged: outcome reached with time nan"]
    assert "diverged" in made.rows[0].marks
    assert made.rows[0].cells["alpha.mini"].n == 3


@pytest.mark.parametrize("schema", [0, 2, None])
def test_records_of_another_schema_are_named(results, schema):
    seeds(results, [12])
    path = records.folder(results, *records.record(seed=2), schema=schema)
    _, left_out = board(results)
    assert left_out == {
        path.relative_to(results).as_posix(): f"schema {schema}; this harness reads schema 1"
    }


def _edit_log(path):
    log = path / "log.jsonl"
    log.write_text(log.read_text().replace('"loss": 2.99}', '"loss": 2.5}', 1))


def _edit_run(path):
    run = path / "run.json"
    run.write_text(run.read_text().replace('"time": 30.0', '"time": 20.0'))


def _cut_log(path):
    log = path / "log.jsonl"
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines()[:-1]))


def _truncate_run(path):
    run = path / "run.json"
    run.write_text(run.read_text()[:200])


@pytest.mark.parametrize(
    "damage", [_edit_log, _edit_run, _cut_log, _truncate_run], ids=lambda f: f.__name__
)
def test_an_edited_or_truncated_record_is_left_out_with_the_reason(results, damage):
    seeds(results, [12])
    path = records.folder(results, *records.record(seed=2))
    damage(path)
    made, left_out = board(results)
    assert list(left_out) == [path.relative_to(results).as_posix()]
    assert re.search("edited|JSON", next(iter(left_out.values())))
    assert made.rows[0].cells["alpha.mini"].n == 1


def test_compact_files_say_the_same_and_show_every_edit(results, tmp_path):
    records.reference(results)
    seeds(results, [12, 13, None])
    runs = collect([results]).runs
    file = tmp_path / "board" / "alpha.mini.jsonl"
    write_compact(file, runs)
    again = collect([file])
    assert [r.record for r in again.runs] == [r.record for r in runs]
    assert again.left_out == []
    lines = file.read_text().splitlines()
    file.write_text(
        "\n".join([lines[0], lines[1].replace("30.0", "29.0"), lines[2], lines[3][:99]]) + "\n"
    )
    damaged = collect([file])
    assert len(damaged.runs) == 1
    assert [where for where, _ in damaged.left_out] == [
        "alpha.mini.jsonl line 2",
        "alpha.mini.jsonl line 4",
    ]
    both = collect([results, file])
    assert len(both.runs) == 3


@pytest.mark.parametrize(
    "changes, mark",
    [
        ({"provisional": True, "prices": "this machine"}, "provisional"),
        ({"prices": "other.json"}, "mixed prices"),
        ({"verified": False, "isolation": "inline"}, "unverified"),
        ({"crossing": None, "outcome": "invalid"}, "disqualified"),
        ({"crossing": None, "outcome": "hopeless"}, "hopeless"),
    ],
)
def test_every_weakness_of_a_record_is_a_mark(results, changes, mark):
    records.reference(results)
    seeds(results, [12, 12])
    records.folder(results, *records.record(**{"seed": 3} | changes))
    found = row(results)
    assert mark in found.marks
    assert set(found.marks) <= MARKS.keys()
    assert (found.rank is None) == (mark == "unverified")


def test_versions_are_not_mixed(results):
    """Runs of another workload version or source are left out, named, and marked on the row."""
    records.reference(results)
    seeds(results, [12, 12])
    records.folder(results, *records.record(seed=3, workload_hash="older"))
    records.folder(results, *records.record(seed=4, submission_hash="older"))
    made, left_out = board(results)
    assert sorted(reason.split(" of ")[0] for reason in left_out.values()) == [
        "another version",
        "another version",
    ]
    assert "left out" in made.rows[0].marks
    assert made.rows[0].cells["alpha.mini"].n == 2


def test_a_workload_not_raced_bars_from_the_ranks_and_one_without_reference_from_the_score(results):
    records.reference(results)
    seeds(results, [12, 12], isolation="strict")
    seeds(results, [12, 12], submission="lion", isolation="strict")
    seeds(results, [12, 12], submission="lion", workload="beta", isolation="strict")
    assert row(results, "adamw").marks == ["defaults"]
    assert row(results, "lion").marks == ["defaults", "no reference"]
    records.reference(results, "beta")
    assert "partial" in row(results, "adamw").marks
    assert row(results, "adamw").rank is None
    assert row(results, "lion").rank == (1, 1)


def test_without_a_rank_those_raced_on_more_workloads_come_first(results):
    for name in ("alpha", "beta"):
        records.reference(results, name)
        seeds(results, [20], submission="lion", workload=name)
    seeds(results, [4], submission="muon")
    made, _ = board(results)
    assert [r.name for r in made.rows] == ["lion", "muon"]
    assert made.rows[0].headline.score < made.rows[1].headline.score


def test_tuning_trials_choose_the_point_and_do_not_count_as_evidence(results):
    records.reference(results)
    strict = {"isolation": "strict"}
    for trial, (crossing, lr) in enumerate([(14, 0.1), (9, 0.2), (None, 0.3)]):
        records.folder(
            results,
            *records.record(seed=0, trial=trial, crossing=crossing, hp={"lr": lr}, **strict),
        )
    assert row(results).marks == ["one seed", "tuning only"]
    for seed in (1, 2):
        records.folder(results, *records.record(seed=seed, crossing=12, hp={"lr": 0.2}, **strict))
    for seed in (3, 4, 5):
        records.folder(results, *records.record(seed=seed, crossing=8, hp={"lr": 0.7}, **strict))
    found = row(results)
    assert found.choices["alpha.mini"].hp == {"lr": 0.2}
    assert found.cells["alpha.mini"].time == pytest.approx(records.interpolated(12))
    assert found.marks == []


def test_a_lucky_second_measurement_of_a_trial_chooses_no_point(results):
    """Before, the luckier of two records of one trial was the best, and its point had no seeds."""
    records.reference(results)
    runs = [(0, 0, 9, 0.1), (0, 0, 11, 0.1), (0, 1, 10, 0.2)]
    runs += [(seed, None, 10, 0.2) for seed in (1, 2, 3)]
    runs += [(seed, None, 12, 0.3) for seed in (1, 2, 3)]
    for number, (seed, trial, crossing, lr) in enumerate(runs):
        changes = {"hp": {"lr": lr}, "run_id": f"run{number}"}
        made, rows = records.record(seed=seed, trial=trial, crossing=crossing, **changes)
        records.folder(results, made, rows)
    choice = row(results).choices["alpha.mini"]
    assert choice.hp == {"lr": 0.2}
    assert choice.tuned


def test_runs_with_a_larger_budget_have_a_board_of_their_own(results):
    records.reference(results)
    seeds(results, [12, 12])
    seeds(results, [12, 12], submission="pbt", budget={"steps": 3000, "factor": 3})
    found = boards(collect([results]), references([results]))
    assert [(b.track, [r.name for r in b.rows]) for b in found] == [
        ("train", ["adamw"]),
        ("train-self-tuning", ["pbt"]),
    ]


def test_a_share_of_the_budget_is_part_of_the_point_and_no_workload(results):
    """The share that reached the goal earliest is the tuned point, and its seeds count."""
    records.reference(results)
    shared = {"hp": {"lr": 0.2}, "budget": {"steps": 640, "factor": 0.64, "whole": 1000}}
    usual = {"hp": {"lr": 0.2}}
    records.folder(results, *records.record(seed=0, trial=0, crossing=14, hp={"lr": 0.1}))
    records.folder(results, *records.record(seed=0, trial=1, crossing=12, **usual))
    made = records.record(seed=0, trial=1, crossing=10, run_id="shared", **shared)
    records.folder(results, *made)
    for seed in (1, 2):
        made = records.record(seed=seed, crossing=9, run_id=f"shared-{seed}", **shared)
        records.folder(results, *made)
    for seed in (1, 2, 3):
        records.folder(results, *records.record(seed=seed, crossing=12, **usual))
    found, left_out = board(results)
    assert left_out == {}
    assert [w.key for w in found.workloads] == ["alpha.mini"]
    choice = found.rows[0].choices["alpha.mini"]
    assert (choice.budget, choice.tuned, len(choice.runs)) == (0.64, True, 2)
    assert choice.cell.time == pytest.approx(records.interpolated(9))
    assert found.rows[0].steps == pytest.approx(450 / 1000)
    shorter = shared | {"budget": {"steps": 510, "factor": 0.51, "whole": 1000}}
    missed = records.record(seed=0, trial=1, crossing=None, run_id="shorter", **shorter)
    records.folder(results, *missed)
    assert row(results).choices["alpha.mini"].budget == 0.64
    # A seed that confirms no share takes it away.
    missed = records.record(seed=1001, trial=1, crossing=None, run_id="other-seed", **shared)
    records.folder(results, *missed)
    assert row(results).choices["alpha.mini"].budget == 1


def test_what_missed_with_every_trial_and_a_fresh_seed_is_a_miss_and_no_lack_of_seeds(results):
    for name in ("alpha", "beta"):
        records.reference(results, name)
    for seed in (1, 2, 3):
        records.folder(results, *records.record(seed=seed, crossing=9))
    for trial in (0, 1):
        made = records.record(
            workload="beta", seed=0, trial=trial, crossing=None, hp={"lr": 0.1 + trial}
        )
        records.folder(results, *made)
    assert row(results).n == 1  # more trials may follow
    records.folder(results, *records.record(workload="beta", seed=1, crossing=None, hp={"lr": 0.1}))
    found = row(results)
    assert found.choices["beta.mini"].cell.units() == [1, 2, 3]
    assert found.n == 3
    assert "one seed" not in found.marks
    # One that was reached is evidence, of which there is too little.
    records.folder(
        results, *records.record(workload="beta", seed=0, trial=2, crossing=15, hp={"lr": 0.3})
    )
    assert row(results).n == 1


def test_the_references_time_is_that_of_its_records(results):
    """The geometric mean of its seeds, interpolated; the frozen time where records are missing."""
    records.reference(results)
    path = results / "reference" / "alpha.mini.json"
    frozen = json.loads(path.read_text()) | {
        "submission": "adamw", "submission_hash": "source of adamw",
        "hp": {"lr": 0.01}, "seeds": [1, 2, 3],
    }  # fmt: skip
    atomic_json(path, frozen)
    seeds(results, [10, 12])
    assert board(results)[0].references == {"alpha.mini": 40.0}
    records.folder(results, *records.record(seed=3, crossing=None))
    assert board(results)[0].references == {"alpha.mini": 40.0}
    write_compact(results / "board" / "alpha.mini.jsonl", collect([results]).runs)
    expected = math.sqrt(records.interpolated(10) * records.interpolated(12))
    assert board(results)[0].references == {"alpha.mini": pytest.approx(expected)}


def test_the_core_alone_counts_where_there_is_one(results, monkeypatch):
    for workload in ("alpha", "beta"):
        records.reference(results, workload, 40.0)
    fast, slow = (40 / records.interpolated(crossing) for crossing in (8, 12))
    seeds(results, [8, 8], "both")
    seeds(results, [12, 12], "both", "beta")
    seeds(results, [8, 8], "other", "beta")
    assert row(results, "both").headline.score == pytest.approx((fast * slow) ** 0.5)
    monkeypatch.setattr("harness.report.board.board._core", lambda name: name == "alpha")
    both, other = row(results, "both"), row(results, "other")
    assert (both.headline.score, both.rank) == (pytest.approx(fast), (1, 1))
    assert (other.headline.score, other.rank) == (pytest.approx(fast), None)
    assert "partial" in other.marks
    assert "partial" not in both.marks


def test_each_constraint_of_fine_tuning_has_a_board_of_its_own(results):
    (results / "reference").mkdir(parents=True)
    for key, time_ in {"alpha.mini": 40.0, "alpha.mini.few": 20.0}.items():
        frozen = {"workload": key, "workload_hash": "hash of alpha", "time": time_}
        atomic_json(results / "reference" / f"{key}.json", frozen)
    seeds(results, [8, 8], "full", track="finetune")
    seeds(results, [8, 8], "lora", track="finetune", variant="few", price=5.0)
    found = boards(collect([results]), references([results]))
    assert [(b.track, [r.name for r in b.rows]) for b in found] == [
        ("finetune", ["full"]),
        ("finetune-few", ["lora"]),
    ]
    times = records.interpolated(8), records.interpolated(8, price=5.0)
    expected = [40 / times[0], 20 / times[1]]
    assert [b.rows[0].headline.score for b in found] == pytest.approx(expected)
    assert all(b.rows[0].rank == (1, 1) for b in found)


def test_a_pair_that_could_not_be_raced_is_named_with_the_reason(results):
    seeds(results, [12])
    (results / "board").mkdir()
    one = {"reason": "it finds no factors", "source": "x", "training_hash": "y"}
    atomic_json(results / "board" / "alpha.mini.failed.json", {"gd": one})
    found = collect([results])
    made = boards(found, references([results]))
    assert [(p.submission, p.key, p.reason) for p in found.unfit] == [
        ("gd", "alpha.mini", "it finds no factors")
    ]
    assert found.left_out == []
    assert [r.name for r in made[0].rows] == ["adamw"]


def test_a_workload_that_a_submission_fails_on_is_a_miss(results):
    for workload in ("alpha", "beta"):
        records.reference(results, workload, 40.0)
    seeds(results, [8, 8], "able", training_hash="t")
    seeds(results, [8, 8], "able", "beta", training_hash="t")
    seeds(results, [6, 6], "unable", training_hash="t")
    (results / "board").mkdir()
    failed = results / "board" / "beta.mini.failed.json"
    one = {"reason": "it finds no factors", "source": "source of unable", "training_hash": "t"}
    atomic_json(failed, {"unable": one})
    unable = row(results, "unable")
    assert unable.headline.score == pytest.approx((10 / records.interpolated(6)) ** 0.5)
    assert (unable.rank, unable.reached) == ((2, 2), 1)
    assert {"unfit", "misses"} <= {*unable.marks}
    assert "partial" not in unable.marks
    for other in ({"training_hash": "older"}, {"source": "older"}):
        atomic_json(failed, {"unable": one | other})
        assert "partial" in row(results, "unable").marks


def test_a_badge_is_shown_where_its_file_is_what_was_raced(results, monkeypatch):
    monkeypatch.setattr(methods, "of", lambda name: methods.Method("reproduced"))
    seeds(results, [12], submission_hash=identity.source_hash(discover.find("adamw")))
    assert row(results).badge == "reproduced"
    seeds(results, [12], submission="lion", submission_hash="older")
    assert row(results, "lion").badge is None


def test_names_cannot_write_into_the_page(results, tmp_path):
    """A name with markup is refused; other text of a record is escaped."""
    records.reference(results)
    seeds(results, [12, 12], submission="lion")
    runs = []
    for i, change in enumerate(
        [
            {"submission": "<script>alert(1)</script>$x_|"},
            {"track": "../.."},
            {"run_id": "evil", "hp": {"<blink>": "<marquee>", "$x": 1}, "reason": "<script>"},
        ]
    ):
        made, rows = records.record(seed=i)
        run = read_folder(records.folder(tmp_path / f"other{i}", made, rows))
        run.record.update(change)
        run.about["summary"] = "=1+1 <script>alert(2)</script>"
        runs.append(run)
    write_compact(results / "board" / "alpha.mini.jsonl", runs)
    assert main.main(["report", str(results), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<script>alert" not in page
    assert not re.search("<blink|<marquee", page)
    assert "<code>&lt;blink&gt; &lt;marquee&gt;</code>" in page
    markdown = (tmp_path / "out" / "LEADERBOARD.md").read_text()
    assert "<script" not in markdown
    assert "damaged: not a valid submission" in markdown
    assert "damaged: not a valid track" in markdown
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "other0", "other1", "other2", "out", "results",
    ]  # fmt: skip


WRONG = [None, True, -1, 1e400, math.nan, "", "../..", "=1+1", [], [1], {}, {"a": {"b": "c"}}]


def test_a_line_with_any_wrong_field_crashes_nothing(results, tmp_path):
    """Every field of a record is replaced by every kind of value, and the line is signed again."""
    records.campaign(results, {"adamw": 1.0, "lion": 1.3}, ["alpha"], seeds=2, trials=2)
    file = results / "board" / "alpha.mini.jsonl"
    lines = file.read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    whole = next(row for row in rows if row.get("trial", 0) is None)
    whole.pop("digest")
    whole |= {"flops": 1e9, "cpu_seconds": 1.0, "stream": {"ends": [1], "groups": [[[1, 0.5]]]}}
    whole |= {"continual": {"strict": {"average": {"value": 0.5}}}, "training_hash": "t"}
    damaged = []
    for key in whole:
        for value in WRONG:
            damaged.append(whole | {key: value, "run_id": f"{key}-{len(damaged)}"})
            for inner in whole[key] if isinstance(whole[key], dict) else ():
                nested = whole[key] | {inner: value}
                damaged.append(whole | {"run_id": f"x-{len(damaged)}"} | {key: nested})
    file.write_text("\n".join([*lines, *(signed(row) for row in damaged), "[1]", "{", ""]))
    found = collect([results])
    boards(found, references([results]))
    assert found.read == len(file.read_text().splitlines()) - sum("id" in row for row in rows)
    assert len(found.left_out) > 200
    assert main.main(["report", str(results), "--out", str(tmp_path / "out")]) == 0


def table(folder: Path, name: str) -> list[dict]:
    return list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))


def test_every_record_is_in_a_row_or_named_and_the_numbers_add_up(results, tmp_path, capsys):
    records.campaign(results, {"adamw": 1.0, "lion": 1.3}, ["alpha"], seeds=2, trials=2)
    for seed, lr in enumerate([0.1, 0.2, 0.3]):  # a sweep without repetitions
        records.folder(results, *records.record("sgd", seed=0, hp={"lr": lr}, run_id=f"sgd-{seed}"))
    shorter = {"workload_hash": "shorter", "budget": {"steps": 500}}
    records.folder(results, *records.record("lion", seed=6, **shorter))
    records.folder(results, *records.record("lion", seed=7, workload_hash="older"))
    records.folder(results, *records.record("lion", seed=8, submission_hash="older"))
    damaged = records.folder(results, *records.record("lion", seed=9))
    (damaged / "run.json").write_text("{")
    copied = collect([results / "board" / "alpha.mini.jsonl"]).runs[0]
    write_compact(results / "board" / "beta.mini.jsonl", [copied])

    assert main.main(["report", str(results), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    boards_of = [file.read_text().splitlines() for file in results.glob("board/*.jsonl")]
    lines = [json.loads(line) for lines in boards_of for line in lines]
    read = sum("run_id" in line for line in lines) + len(list(results.glob("runs/*/*/*")))
    rows = table(tmp_path / "out", "runs")
    assert f"{read} records read: {len(rows)} in the tables, 3 left out, 1 second copy" in told
    assert read == len(rows) + 3 + 1
    assert len({row["run_id"] for row in rows}) == len(rows)
    assert {row["use"] for row in rows} == {"counts", "tuning", "other point"}
    page = (tmp_path / "out" / "index.html").read_text()
    for row in rows:
        assert row["run_id"] in page, "every run can be reached from its row"


def test_runs_at_another_horizon_are_a_workload_of_their_own(results, capsys):
    records.reference(results)
    seeds(results, [12, 12])
    seeds(results, [12, 12], "lion")
    half = {"workload_hash": "half", "budget": {"steps": 500}, "crossing": 5}
    for name in ("adamw", "lion"):
        for seed in (5, 6, 7):
            records.folder(results, *records.record(name, seed=seed, **half))
    made, left_out = board(results)
    assert left_out == {}
    assert [w.key for w in made.workloads] == ["alpha.mini", "alpha.mini@500"]
    assert list(made.references) == ["alpha.mini"]
    assert all(r.headline.score == pytest.approx(40 / records.interpolated(12)) for r in made.rows)
    assert all({"no reference", "left out"}.isdisjoint(r.marks) for r in made.rows)
    assert main.main(["compare", "lion", "adamw", f"results={results}"]) == 0
    assert "alpha.mini@500" in capsys.readouterr().out


def test_of_points_raced_equally_often_the_fastest_is_shown_with_a_mark(results):
    records.reference(results)
    for i, (lr, crossing) in enumerate([(0.1, 14), (0.2, 9), (0.3, None)]):
        made = records.record(seed=0, crossing=crossing, hp={"lr": lr}, run_id=f"point-{i}")
        records.folder(results, *made)
    choice = row(results).choices["alpha.mini"]
    assert choice.hp == {"lr": 0.2}
    assert [run.record["hp"]["lr"] for run in choice.others] == [0.1, 0.3]
    assert "selected" in row(results).marks


def test_tables_are_without_loss(results, tmp_path):
    records.campaign(results, {"adamw": 1.0, "lion": 1.3}, ["alpha"], seeds=2, trials=2)
    assert main.main(["report", str(results), "--out", str(tmp_path)]) == 0
    runs = {run.record["run_id"]: run for run in collect([results]).runs}
    points = table(tmp_path, "curves")
    for line in table(tmp_path, "runs"):
        rec = runs[line["run_id"]].record
        for key, value in rec.items():
            if key == "evaluations":
                own = [point for point in points if point["run_id"] == line["run_id"]]
                assert [int(point["step"]) for point in own] == value["step"]
                assert [float(point["seconds"]) for point in own] == value["seconds"]
                assert [float(point["loss"]) for point in own] == value["metrics"]["loss"]
            elif key in ("best", "final"):
                assert float(line[key]) == value["loss"]
            elif isinstance(value, dict | list | bool):
                assert (
                    json.loads(line[key].lower() if value in (True, False) else line[key]) == value
                )
            else:
                assert line[key] == ("" if value is None else str(value)), key


def test_a_figure_is_drawn_again_only_where_records_have_changed(results, tmp_path, monkeypatch):
    records.campaign(results, {"adamw": 1.0, "lion": 1.3}, ["alpha", "beta"])
    assert main.main(["report", str(results), "--out", str(tmp_path)]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    drawn = []
    draw = drawing.draw
    monkeypatch.setattr(
        drawing, "draw", lambda boards, jobs: drawn.append(jobs) or draw(boards, jobs)
    )
    assert main.main(["report", str(results), "--out", str(tmp_path)]) == 0
    assert drawn == [[]]
    assert {path: path.read_bytes() for path in before} == before
    seeds(results, [9, 9], "muon", track="compress")
    assert main.main(["report", str(results), "--out", str(tmp_path)]) == 0
    assert {i for i, _ in drawn[1]} == {1}, "the new board alone"
    seeds(results, [9], "lion", "beta")
    assert main.main(["report", str(results), "--out", str(tmp_path)]) == 0
    assert {i for i, _ in drawn[2]} == {0}


def test_ones_own_runs_are_in_one_plot(results, tmp_path):
    records.reference(results)
    for i, lr in enumerate([0.1, 0.2]):
        made = records.record("mine", seed=0, hp={"lr": lr}, run_id=f"mine-{i}")
        records.folder(results, *made)
    folder = results / "runs" / "alpha" / "mine"
    assert main.main(["report", str(folder), "--out", str(tmp_path / "out")]) == 0
    figure = (tmp_path / "out" / "figures" / "train-mini-runs.svg").read_text()
    assert "mine lr 0.1" in figure
    assert "mine lr 0.2" in figure
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.index("Your runs") < page.index("<table")


CHECK = """
<script>
const say = [];
const all = what => [...document.querySelectorAll(".board:not([hidden]) " + what)];
const names = () => all(".entry").filter(e => !e.hidden)
  .map(e => e.querySelector(".name button").textContent).join(" ");
const head = text => all("th button").find(b => b.textContent.startsWith(text));
say.push(names());
head("submission").click(); say.push(names());
head("submission").click(); say.push(names());
head("speed-up").click(); say.push(names());
const search = document.querySelector("input[type=search]");
search.value = "lion"; search.oninput(); say.push(names());
search.value = ""; search.oninput();
document.querySelector(".ranked").click(); say.push(names());
const entry = document.querySelector(".entry"), button = entry.querySelector(".name button");
button.click();
say.push([button.getAttribute("aria-expanded"), entry.rows[1].hidden,
  entry.querySelectorAll("svg.curve").length,
  entry.querySelector(".hp code").textContent].join(" "));
button.click(); say.push(button.getAttribute("aria-expanded") + " " + entry.rows[1].hidden);
document.title = say.join("|");
</script></body>"""


def test_the_page_sorts_filters_and_expands_in_a_browser(results, tmp_path):
    browser = next(
        (b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None
    )
    if not browser:
        pytest.skip("no Chromium is installed (apt install chromium)")
    records.campaign(results, {"adamw": 1.0, "lion": 1.4, "sgd": 0.6})
    seeds(results, [12], submission="muon")
    assert main.main(["report", str(results), "--out", str(tmp_path)]) == 0
    (tmp_path / "check.html").write_text(
        (tmp_path / "index.html").read_text().replace("</body>", CHECK)
    )
    command = [
        browser,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=2000",
        "--dump-dom",
        (tmp_path / "check.html").as_uri(),
    ]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", made.stdout)[1]
    assert title.split("|") == [
        "lion adamw sgd muon",
        "adamw lion muon sgd",
        "sgd muon lion adamw",
        "lion muon adamw sgd",
        "lion",
        "lion adamw sgd",
        "true false 2 lr 0.01",
        "false true",
    ]


def test_compare_says_which_is_faster_and_how_sure(results, capsys):
    records.campaign(results, {"adamw": 1.0, "lion": 1.5}, scatter=0.02)
    assert main.main(["compare", "lion", "adamw", "workload=alpha", f"results={results}"]) == 0
    told = capsys.readouterr().out
    assert re.search(
        r"alpha.mini +\d+\.\d s +\d+\.\d s +3/3 +1\.\d\dx faster \(95 % interval 1\.\d\d to", told
    )
    assert main.main(["compare", "lion", "adam", f"results={results}"]) == 2
    assert "did you mean adamw" in capsys.readouterr().err
    assert main.main(["compare", "adamw", "adamw:lr=1e-2", f"results={results}"]) == 0
    assert "adamw:lr=1e-2" in capsys.readouterr().out
    assert main.main(["compare", "adamw", "adamw:lr=3", f"results={results}"]) == 2
    assert "recorded lr: 0.01" in capsys.readouterr().err
    assert main.main(["compare", "lion", "adamw", "wrkload=alpha"]) == 2
    assert "did you mean workload" in capsys.readouterr().err


def test_a_comparison_on_one_workload_reads_no_other_workloads_board(tmp_path, capsys):
    results, boards_folder = tmp_path / "results", tmp_path / "made" / "board"
    records.campaign(results, {"adamw": 1.0, "lion": 1.5}, ["alpha", "beta"], scatter=0.02)
    boards_folder.mkdir(parents=True)
    runs = collect([results]).runs
    for name in ("alpha", "beta"):
        own = [run for run in runs if run.record["workload"] == name]
        write_compact(boards_folder / f"{name}.mini.jsonl", own)
    made = boards_folder.parent
    shutil.copytree(results / "reference", made / "reference")
    assert len(collect([made]).runs) == 2 * len(collect([made], "alpha").runs) == len(runs)
    assert collect([made], "alpha.mini").read == len(runs) // 2
    assert collect([made], "alph").read == 0
    told = []
    for folder in (results, made):
        line = ["compare", "lion", "adamw", "workload=alpha", f"results={folder}"]
        assert main.main(line) == 0
        told.append(capsys.readouterr().out.splitlines()[:2])
    assert told[0] == told[1]


@pytest.mark.slow
def test_ten_thousand_records_in_a_minute(results, tmp_path):
    submissions = {f"method_{i:02}": 0.4 + 0.015 * i for i in range(100)}
    records.campaign(results, submissions, [f"w{i}" for i in range(10)], seeds=3, trials=7)
    begun = time.process_time()
    assert main.main(["report", str(results), "--out", str(tmp_path / "out")]) == 0
    spent = time.process_time() - begun
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert spent < 60, f"{spent:.0f} s"
    assert memory < 2 * 2**30, f"{memory / 2**30:.1f} GiB"
    assert (tmp_path / "out" / "runs.csv").read_text().count("\n") == 10_001
