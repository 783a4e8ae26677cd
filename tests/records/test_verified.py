"""Laws of the list of verified records: what is ranked was raced again or is the maintainers'."""

import gzip
import json

import pytest
import torch

from harness.cli import main
from harness.cli.commands import verify
from harness.errors import UserError
from harness.race import rerun
from harness.records import manifest, verified
from harness.records.collect import collect
from harness.records.compact import signed, write_compact
from harness.records.references import references
from harness.report.board.board import boards
from harness.system import sandbox
from harness.system.files import BadFile, read_json
from harness.system.paths import ROOT
from harness.train import final_weights, shared_weights
from tests.support import records, tiny

BOARD = ROOT / "results" / "board"
WHEN = {"date": "2026-01-02", "harness": "h", "machine": "m"}


def entry(record, how=verified.AGAIN):
    return verified.entry_of(record, how, "the same metrics", "somebody", **WHEN)


@pytest.fixture
def own_list(tmp_path, monkeypatch):
    """A list of its own, empty."""
    monkeypatch.setattr(verified, "LIST", tmp_path / "verified.json")
    return tmp_path / "verified.json"


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """The folder of a short race."""
    goal = {"goal": {"relative_error": {"at_most": 0.9}}}
    planned = tiny.trial("gd", tmp_path_factory.mktemp("raced"), numbers=goal)
    assert tiny.race(planned).outcome == "reached"
    return planned.folder


def test_every_record_of_the_project_is_listed_as_it_is():
    runs = collect([BOARD.parent]).runs
    assert len(runs) >= 700
    assert [run.where for run in runs if run.verified not in verified.HOW] == []


def test_a_record_and_its_line_have_one_digest_and_an_edit_has_another(raced, own_list, tmp_path):
    (run,) = collect([raced]).runs
    write_compact(tmp_path / "board.jsonl", [run])
    (line,) = collect([tmp_path / "board.jsonl"]).runs
    assert (run.verified, line.verified) == ("", "")
    verified.add(own_list, [entry(run.record, verified.OWN)])
    assert collect([raced]).runs[0].verified == verified.OWN
    assert collect([tmp_path / "board.jsonl"]).runs[0].verified == verified.OWN
    *environment, text = (tmp_path / "board.jsonl").read_text().splitlines()
    row = json.loads(text)
    row.pop("digest")
    edited = signed(row | {"seed": 5})
    (tmp_path / "board.jsonl").write_text("\n".join([*environment, edited, ""]))
    assert collect([tmp_path / "board.jsonl"]).runs[0].verified == ""


def test_running_again_verifies_a_strict_record_and_no_other(own_list):
    record, _ = records.record(isolation="process")
    strict = record | {"isolation": "strict"}
    verified.add(own_list, [entry(record)])
    assert verified.verified_by(record) == ""
    verified.add(own_list, [entry(strict)])
    assert verified.verified_by(strict) == verified.AGAIN
    assert len(verified.read_list(own_list)) == 1


def test_made_up_records_of_three_seeds_have_no_rank(tmp_path, monkeypatch):
    results = tmp_path / "results"
    records.campaign(results, {"adamw": 1.0, "lion": 1.3}, ["alpha"])
    # By today's rules the made-up records are left out at once.
    assert collect([results]).runs == []
    # A forger who keeps every rule gets a row, but no rank.
    records.believe(monkeypatch, verified="")
    (board,) = boards(collect([results]), references([results]))
    assert [row.rank for row in board.rows] == [None, None]
    assert all("not verified" in row.marks for row in board.rows)


def test_what_comply_fails_is_left_out_with_its_reason(tmp_path, capsys):
    source = BOARD / "matrix_sensing.mini.jsonl"
    first, *lines = source.read_text().splitlines()
    rows = [json.loads(line) for line in (first, *lines)]
    at = next(i for i, row in enumerate(rows) if row.get("outcome") == "reached")
    rows[at].pop("digest")
    # within the schema, and not what the evaluations give
    rows[at]["time"] /= 2
    kept = [first, *lines]
    kept[at] = signed(rows[at])
    file = tmp_path / "matrix_sensing.mini.jsonl"
    file.write_text("\n".join(kept) + "\n")
    found = collect([file])
    assert found.read == sum("run_id" in row for row in rows)
    ((where, why),) = found.left_out
    assert where == f"{file.name} line {at + 1}"
    assert why.startswith("breaks a rule: Crossing, outcome and reference seconds")
    assert main.main(["comply", str(file)]) == 3
    assert "1 fail" in capsys.readouterr().out


def test_a_race_that_is_the_same_confirms_a_record_and_own_ones_are_listed(
    raced, own_list, tmp_path, capsys
):
    file = tmp_path / "copy.jsonl"
    (run,) = collect([raced]).runs
    write_compact(file, [run])
    agree, seen = verified.compare(run, run, [])
    assert agree
    assert "the same weights at" in seen
    assert main.main(["verify", "--own", "--by", "us", str(file), "--list", str(own_list)]) == 0
    assert "1 records are listed as raced by us" in capsys.readouterr().out
    assert verified.read_list(own_list)[0]["by"] == "us"


@pytest.mark.parametrize(
    "change, why",
    [
        ({"outcome": "out_of_budget", "time": None}, "reached recorded, out_of_budget now"),
        ({"weights": "0" * 16}, "the last weights are not"),
        ({"time": 0.5}, "not within 25%"),
    ],
)
def test_a_second_race_that_differs_confirms_nothing(raced, change, why):
    (run,) = collect([raced]).runs
    agree, seen = verified.compare(run, records.changed(run, change), [])
    assert not agree
    assert why in seen


def test_other_bits_are_confirmed_within_the_interval_of_the_seeds_alone(raced):
    (run,) = collect([raced]).runs
    seeds = [records.shifted(run, factor) for factor in (0.98, 1.01, 1.03)]
    agree, seen = verified.compare(run, records.shifted(run, 1.001), seeds)
    assert agree
    assert "within the interval of 4 seeds" in seen
    agree, seen = verified.compare(run, records.shifted(run, 1.5), seeds)
    assert not agree
    assert "outside the interval" in seen
    agree, seen = verified.compare(run, records.shifted(run, 1.001), seeds[:1])
    assert not agree
    assert "there is no interval" in seen


@pytest.mark.slow
def test_harness_verify_races_a_committed_record_again(own_list, capsys):
    """About 15 s: the shortest record of the board."""
    lines = (BOARD / "matrix_sensing.mini.jsonl").read_text().splitlines()
    at = next(i for i, line in enumerate(lines, 1) if '"submission":"scaled_gd","' in line)
    place = f"{BOARD / 'matrix_sensing.mini.jsonl'}:{at}"
    assert main.main(["verify", place, "--list", str(own_list)]) == 0
    assert "1 confirmed, 0 not" in capsys.readouterr().out
    assert verified.read_list(own_list)[0]["how"] == verified.AGAIN


@pytest.fixture
def with_weights(tmp_path):
    """The folder of a short race, with weights that are not its own."""
    planned = tiny.trial("gd", tmp_path / "strict")
    # The referee keeps the weights of strict trials alone; this one runs in this process.
    outcome = tiny.race(planned)
    assert final_weights.load(outcome.folder) is None
    weights = {"u": torch.ones(3, 2), "mask": torch.tensor([True, False])}
    final_weights.keep(outcome.folder, weights)
    return outcome.folder, weights


def test_final_weights_come_back_to_the_bit_and_may_be_deleted(with_weights):
    folder, weights = with_weights
    back = final_weights.load(folder)
    assert shared_weights.digest(back) == shared_weights.digest(weights)
    stated = manifest.write(folder)
    (folder / final_weights.NAME).unlink()
    assert final_weights.load(folder) is None
    assert manifest.problems(folder, stated) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"no tensors")],
    ids=["empty", "no gzip", "no tensors"],
)
def test_damaged_weights_are_named(with_weights, content):
    folder, _ = with_weights
    (folder / final_weights.NAME).write_bytes(content)
    with pytest.raises(BadFile, match="it has no weights"):
        final_weights.load(folder)


def test_other_weights_than_the_record_s_are_refused(with_weights):
    folder, _ = with_weights
    with pytest.raises(UserError, match="do not have the record's digest"):
        rerun.evaluate_weights(read_json(folder / "run.json"), folder)


@pytest.mark.slow
def test_a_strict_race_keeps_its_weights_and_verify_evaluates_them(own_list, tmp_path, capsys):
    """About 40 s: two races, in strict as on the leaderboard."""
    if not sandbox.offered():
        pytest.skip("strict needs Landlock")
    words = ["workload=matrix_sensing", "submission=scaled_gd", "isolation=strict", "seed=1"]
    assert main.main([*words, "tracker=none", f"results={tmp_path}"]) == 0
    (folder,) = (tmp_path / "runs").glob("*/*/*")
    assert (folder / final_weights.NAME).is_file()
    assert main.main(["verify", str(folder), "--list", str(own_list)]) == 0
    out = capsys.readouterr().out
    assert "the same weights at 6 evaluations" in out
    assert "the final weights give the same metrics" in out
    assert collect([folder]).runs[0].verified == verified.AGAIN


@pytest.mark.parametrize("text", ["nowhere", "nowhere.jsonl:3", "tests", "README.md:4"])
def test_what_cannot_be_verified_is_a_message(text, capsys):
    assert main.main(["verify", text]) == 2
    assert verify.ALLOWED in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"run_id": "x"}]', "[" * 5000])
def test_a_damaged_list_is_named(own_list, text):
    own_list.write_text(text)
    with pytest.raises(UserError, match="is not a list of verified records"):
        verified.verified_by(records.record()[0])
