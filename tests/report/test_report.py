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

from harness.catalog import discover, identity, methods
from harness.cli import main
from harness.records.collect import collect, read_folder
from harness.records.compact import write_compact
from harness.records.references import references
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
    times = {w: [_crossing(path) for path in paths] for w, paths in logs.items()}

    def cost(values, reference, shift=0.0):
        middle = statistics.median(values)
        return math.log(
            min(middle * (1 + shift if math.isfinite(middle) else 1), 4 * reference) / reference
        )

    found = row(results).headline
    costs = {w: cost([t for t, _ in times[w]], workloads[w]) for w in workloads}
    assert found.score == pytest.approx(math.exp(-statistics.mean(costs.values())))
    draw, sample = random.Random(0), []
    for _ in range(4000):
        total = 0.0
        for w, reference in workloads.items():
            n = len(times[w])
            width = statistics.median(
                [(t - after) / t for t, after in times[w] if math.isfinite(t)]
            )
            one = cost(
                draw.choices([t for t, _ in times[w]], k=n),
                reference,
                (draw.random() - 0.5) * width,
            )
            total += min(costs[w] + (one - costs[w]) * math.sqrt(n / (n - 1)), math.log(4))
        sample.append(math.exp(-total / 2))
    sample.sort()
    assert found.low == pytest.approx(sample[100], rel=0.03)
    assert found.high == pytest.approx(sample[3900], rel=0.03)


def _crossing(path: Path) -> tuple[float, float]:
    """(time, after) of the first of two evaluations in a row at or below 3.0; inf without one."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [
        (r["reference_seconds"], r["metrics"]["loss"]) for r in rows if r["event"] == "evaluation"
    ]
    for before, here, after in zip(rows, rows[1:], rows[2:]):
        if here[1] <= 3.0 and after[1] <= 3.0:
            return here[0], before[0]
    return math.inf, 0.0


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


def test_without_records_there_is_a_page_that_says_so(results, tmp_path):
    results.mkdir()
    assert main.main(["report", str(results), "--out", str(tmp_path / "out")]) == 0
    assert "No records count yet" in (tmp_path / "out" / "LEADERBOARD.md").read_text()
    assert "No records count yet" in (tmp_path / "out" / "index.html").read_text()
    assert main.main(["report", str(tmp_path / "nothing")]) == 2


def test_one_seed_has_a_score_but_no_interval_and_no_rank(results):
    records.reference(results)
    seeds(results, [12])
    found = row(results)
    assert found.headline.score == pytest.approx(40 / 30)
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
    seeds(results, [12, 12])
    seeds(results, [12, 12], submission="lion")
    seeds(results, [12, 12], submission="lion", workload="beta")
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
    for trial, (crossing, lr) in enumerate([(14, 0.1), (9, 0.2), (None, 0.3)]):
        records.folder(
            results, *records.record(seed=0, trial=trial, crossing=crossing, hp={"lr": lr})
        )
    assert row(results).marks == ["one seed", "tuning only"]
    for seed in (1, 2):
        records.folder(results, *records.record(seed=seed, crossing=12, hp={"lr": 0.2}))
    for seed in (3, 4, 5):
        records.folder(results, *records.record(seed=seed, crossing=8, hp={"lr": 0.7}))
    found = row(results)
    assert found.choices["alpha.mini"].hp == {"lr": 0.2}
    assert found.cells["alpha.mini"].time == 30.0
    assert found.marks == []


def test_runs_with_a_larger_budget_have_a_board_of_their_own(results):
    records.reference(results)
    seeds(results, [12, 12])
    seeds(results, [12, 12], submission="pbt", budget={"steps": 3000, "factor": 3})
    found = boards(collect([results]), references([results]))
    assert [(b.track, [r.name for r in b.rows]) for b in found] == [
        ("train", ["adamw"]),
        ("train-self-tuning", ["pbt"]),
    ]


def test_the_core_alone_counts_where_there_is_one(results, monkeypatch):
    for workload in ("alpha", "beta"):
        records.reference(results, workload, 40.0)
    seeds(results, [8, 8], "both")
    seeds(results, [12, 12], "both", "beta")
    seeds(results, [8, 8], "other", "beta")
    assert row(results, "both").headline.score == pytest.approx((2 * 4 / 3) ** 0.5)
    monkeypatch.setattr("harness.report.board.board._core", lambda name: name == "alpha")
    both, other = row(results, "both"), row(results, "other")
    assert (both.headline.score, both.rank) == (pytest.approx(2.0), (1, 1))
    assert (other.headline.score, other.rank) == (pytest.approx(2.0), None)
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
    assert [b.rows[0].headline.score for b in found] == pytest.approx([2.0, 0.5])
    assert all(b.rows[0].rank == (1, 1) for b in found)


def test_a_pair_that_could_not_be_raced_is_named_with_the_reason(results):
    seeds(results, [12])
    (results / "board").mkdir()
    one = {"reason": "it finds no factors", "source": "x", "training_hash": "y"}
    atomic_json(results / "board" / "alpha.mini.failed.json", {"gd": one})
    made, left_out = board(results)
    assert left_out == {"gd on alpha.mini": "could not be raced: it finds no factors"}
    assert [r.name for r in made.rows] == ["adamw"]


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
    assert unable.headline.score == pytest.approx((40 / 15 / 4) ** 0.5)
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
    records.reference(results)
    evil = "<script>alert(1)</script>$x_|"
    made, rows = records.record(run_id="evil", hp={"<blink>": "<marquee>"})
    seeds(results, [12, 12], submission="lion")
    made["submission"] = "evil"
    path = records.folder(results, made | {"submission": "evil"}, rows)
    run = read_folder(path)
    run.record["submission"] = evil
    shutil.rmtree(path)
    write_compact(results / "board" / "alpha.mini.jsonl", [run])
    assert main.main(["report", str(results), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<script>alert" not in page
    assert not re.search("<blink|<marquee", page)
    assert "<code>&lt;blink&gt; &lt;marquee&gt;</code>" in page
    assert "&lt;script&gt;alert(1)" in page


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
    assert main.main(["compare", "lion", "adamw", "wrkload=alpha"]) == 2
    assert "did you mean workload" in capsys.readouterr().err


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
