"""Laws of the list of verified records: what is ranked was raced again or is the maintainers'."""

import gzip
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import pytest
import torch

from harness.catalog import key
from harness.catalog.definition import load_workload
from harness.cli import main
from harness.cli.commands import verify
from harness.errors import UserError
from harness.race import rerun
from harness.records import manifest, verified
from harness.records.collect import Collection, _add, collect, read_folder
from harness.records.compact import signed, write_compact
from harness.records.references import references
from harness.report.board.board import boards
from harness.system import sandbox
from harness.system.files import BadFile, read_json
from harness.system.paths import ROOT, cache_folder
from harness.train import final_weights, shared_weights
from scripts import board_tables
from tests.support import records, tiny
from tests.support.racing import OWN, planned

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
    runs = board_tables.committed().runs
    assert len(runs) >= 500
    assert [run.where for run in runs if run.verified not in verified.HOW] == []


def test_processes_that_share_a_list_write_one_after_the_other(own_list, monkeypatch):
    reading, usual = Event(), verified.read_list

    def read(path):
        entries = usual(path)
        reading.set()
        time.sleep(0.5)
        return entries

    fields = dict.fromkeys(verified.FIELDS, "x") | {"how": verified.OWN, "digest": 64 * "0"}
    slow, quick = (fields | {"run_id": name} for name in "ab")
    monkeypatch.setattr(verified, "read_list", read)
    with ThreadPoolExecutor() as pool:
        pool.submit(verified.add, own_list, [slow])
        assert reading.wait(30)
        verified.add(own_list, [quick])
    assert read_json(own_list) == [slow, quick]


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
    # An entry that a second race made stays.
    verified.add(own_list, [entry(run.record)])
    assert main.main(["verify", "--own", "--by", "us", str(file), "--list", str(own_list)]) == 0
    assert "0 records are listed as raced by us" in capsys.readouterr().out
    assert verified.read_list(own_list)[0]["how"] == verified.AGAIN


@pytest.mark.parametrize(
    "change, why",
    [
        ({"outcome": "out_of_budget", "time": None}, "reached recorded, out_of_budget now"),
        ({"weights": "0" * 16}, "the last weights are not"),
        # Far from any time of the fixture: on a busy machine it takes about half a second.
        ({"time": 1e3}, "not within 25%"),
    ],
)
def test_a_second_race_that_differs_confirms_nothing(raced, change, why):
    (run,) = collect([raced]).runs
    agree, seen = verified.compare(run, records.changed(run, change), [])
    assert not agree
    assert why in seen


def test_a_trial_that_its_seconds_ended_is_compared_up_to_there(raced):
    (run,) = collect([raced]).runs
    columns = run.record["evaluations"]
    short = {"step": columns["step"][:3]} | {
        "metrics": {name: values[:3] for name, values in columns["metrics"].items()}
    }
    missed = {"outcome": "out_of_budget", "time": None, "crossing": None}
    whole = records.changed(run, missed | {"step": run.record["horizon"]})
    ended = records.changed(
        run, missed | {"step": short["step"][-1], "evaluations": columns | short}
    )
    for first, second in ((ended, whole), (whole, ended)):
        agree, seen = verified.compare(first, second, [])
        assert agree
        assert "at 3 evaluations" in seen
    for values in short["metrics"].values():
        values[2] += 0.5
    assert not verified.compare(ended, whole, [])[0]


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
    assert "raced on" not in seen
    other = replace(run, environment=run.environment | {"cpu": "another kind"})
    _, seen = verified.compare(other, records.shifted(run, 1.5), seeds)
    assert f"(raced on another kind, now on {run.environment['cpu']})" in seen


@pytest.mark.slow
def test_harness_verify_races_a_committed_record_again(own_list, capsys):
    """About 15 s: the shortest record of the board."""
    lines = (BOARD / "matrix_sensing.mini.jsonl").read_text().splitlines()
    at = next(i for i, line in enumerate(lines, 1) if '"submission":"scaled_gd","' in line)
    place = f"{BOARD / 'matrix_sensing.mini.jsonl'}:{at}"
    assert main.main(["verify", place, "--list", str(own_list)]) == 0
    assert "1 confirmed, 0 not" in capsys.readouterr().out
    assert verified.read_list(own_list)[0]["how"] == verified.AGAIN


HIDDEN = '''"""Descent with momentum, whose buffer no checkpoint keeps."""
import torch

SPACE = {}


class Algorithm:
    def __init__(self, task, hp):
        self.task = task
        self.buffers = [torch.zeros_like(p) for p in task.params]

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        for p, m in zip(self.task.params, self.buffers, strict=True):
            m.mul_(0.9).add_(p.grad)
            p.data.sub_(m, alpha=0.01)
        return loss

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
'''
DRAWING = '''"""Draws the hidden matrix by the workload's source, and starts at its factor."""
import sys
from importlib.util import module_from_spec, spec_from_file_location

import torch

SPACE = {}


class Algorithm:
    def __init__(self, task, hp):
        self.task = task
        file = sys.modules[task._workload.__name__].__file__
        spec = spec_from_file_location("drawn", file)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        values, vectors = torch.linalg.eigh(module.data(task._config, "val")["truth"][0])
        factor = vectors * values.clamp(min=0.0).sqrt()
        (self.p,) = task.params
        self.best = factor[:, -self.p.shape[1] :].to(self.p)

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        self.p.data.copy_(self.best)
        return loss

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
'''


def run_of(folder):
    """Return the record of a short race, with its own numbers, and the file that was raced."""
    run = read_folder(folder)
    whole = read_json(folder / "run.json") | {"evaluations": run.record["evaluations"]}
    return replace(run, record=whole)


def raced_in(tmp_path, submission, bound, monkeypatch):
    monkeypatch.setattr(key.secrets, "token_hex", lambda size: "7" * 2 * size)
    goal = {"goal": {"relative_error": {"at_most": bound}}}
    return run_of(tiny.race(tiny.trial(submission, tmp_path / "first", numbers=goal)).folder)


def test_state_that_no_checkpoint_keeps_is_not_confirmed(tmp_path, monkeypatch):
    """The honest twin is confirmed; both races are interrupted at an evaluation."""
    hidden, forgetful = tmp_path / "hidden.py", OWN / "forgetful.py"
    hidden.write_text(HIDDEN)
    for name, file, agrees in (("gd", "", True), (hidden, str(hidden), False)):
        run = raced_in(tmp_path / str(agrees), name, 1e-6, monkeypatch)
        second, done = rerun.again(run, None, tmp_path / f"{agrees} again", file)
        assert "interrupted at step" in done
        assert second.record["outcome"] == run.record["outcome"]
        assert verified.compare(run, second, [])[0] is agrees
    # Where the hand-over depends on it, the trial does not continue.
    run = raced_in(tmp_path / "forgetful", forgetful, 1e-6, monkeypatch)
    with pytest.raises(UserError, match="the weights that came back"):
        rerun.again(run, None, tmp_path / "forgetful again", str(forgetful))


@pytest.mark.parametrize(
    "workload, variant, drawn",
    [
        ("clean", None, True), ("partial", None, True), ("vit", "label_noise", True),
        ("vit", None, False), ("fed", None, False),
    ],
)  # fmt: skip
def test_wrong_labels_and_candidates_are_drawn_by_code(workload, variant, drawn, tmp_path):
    """A key draws others: who knows the public ones cannot tell which labels are right."""
    trial = planned(workload, "adamw", tmp_path, variant=variant)
    assert rerun.is_generated(trial) == drawn
    if workload == "vit":
        return
    told = "candidates" if workload == "partial" else "labels"
    module, config = load_workload(trial.definition), trial.definition.config
    with key.own_key(), key.keyed_generators():
        keyed = rows_of(module.data(config, "train"), told)
    assert (rows_of(module.data(config, "train"), told) != keyed) == drawn


def rows_of(data, told):
    """Return each example with what is told of it, in no order of the examples."""
    rows = zip(data["images"], data[told])
    return sorted((image.numpy().tobytes(), value.numpy().tobytes()) for image, value in rows)


def test_a_solution_from_the_source_solves_no_other_instance(tmp_path, monkeypatch):
    """The honest twin solves it; the instance leaves nothing in the cache."""
    run = raced_in(tmp_path / "honest", "gd", 0.9, monkeypatch)
    told = rerun.of_own_key(run, [], None, tmp_path / "honest again", "")
    assert "solved at step" in told
    file = tmp_path / "drawing.py"
    file.write_text(DRAWING)
    run = raced_in(tmp_path / "cheat", file, 1e-3, monkeypatch)
    assert run.record["outcome"] == "reached"
    before = {path.name for path in (cache_folder() / "prepared").iterdir()}
    with pytest.raises(UserError, match="an instance of a key of its own ended as out_of_budget"):
        rerun.of_own_key(run, [], None, tmp_path / "cheat again", str(file))
    assert {path.name for path in (cache_folder() / "prepared").iterdir()} == before
    assert key.VARIABLE not in os.environ


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


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_a_record_that_comes_first_does_not_displace_a_verified_one(raced, own_list, factor):
    """A made-up record of the same run, better or the same but for a digit, and its honest twin."""
    (run,) = collect([raced]).runs
    made_up = replace(run, record=run.record | {"time": run.record["time"] * factor, "seed": 7})
    for entries, used in (([], made_up), ([entry(run.record, verified.OWN)], run)):
        verified.add(own_list, entries)
        runs, result = {}, Collection([], [])
        for each in (made_up, run):
            _add(each, runs, result)
        assert [each.record["seed"] for each in runs.values()] == [used.record["seed"]]
        assert len(result.left_out) + len(result.copies) == 1


def test_no_code_of_a_stranger_runs_unconfined(raced, tmp_path):
    """The honest twins: an installed submission, a strict record, files that the user names."""
    record = read_json(raced / "run.json")
    assert rerun.admitted(record, raced, "", "") == record
    (kept := raced / "source" / "stranger.py").write_text("")
    try:
        strange = record | {"submission": "stranger", "isolation": "inline"}
        with pytest.raises(UserError, match="isolation=inline would not confine it"):
            rerun.admitted(strange, raced, "", "")
        assert rerun.admitted(strange, raced, "stranger.py", "") == strange
        strict = strange | {"isolation": "strict"}
        assert rerun.admitted(strict, raced, "", "") == strict
    finally:
        kept.unlink()
    strange = record | {"workload_file": "results/runs/theirs.py"}
    with pytest.raises(UserError, match="whose code no isolation would confine"):
        rerun.admitted(strange, None, "", "")
    mine = tmp_path / "mine.py"
    assert rerun.admitted(strange, None, "", str(mine))["workload_file"] == str(mine)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"engine": {}}, "damaged"),
        ({"engine": {"device": None, "threads": "x"}}, "damaged"),
        ({"engine": {"device": "cpu", "threads": None}}, "damaged"),
        ({"config": {"goal": None}}, "goal is None; keys with values"),
        ({"config": {"evaluate": [1]}}, r"evaluate is \[1\]; keys with values"),
    ],
)
def test_a_record_that_no_race_has_written_is_a_message(raced, tmp_path, change, said):
    run = run_of(raced)
    assert rerun.trial_of(run, raced, tmp_path).run_id == run.record["run_id"]
    record = run.record | {key: run.record[key] | value for key, value in change.items()}
    record |= {key: {} for key, value in change.items() if not value}
    with pytest.raises(UserError, match=said):
        rerun.trial_of(replace(run, record=record), raced, tmp_path)


@pytest.mark.parametrize(
    "text, said",
    [
        ("nowhere", verify.ALLOWED),
        ("nowhere.jsonl:3", verify.ALLOWED),
        ("tests", verify.ALLOWED),
        ("README.md:4", "README.md is not a file of records"),
    ],
)
def test_what_cannot_be_verified_is_a_message(text, said, capsys):
    assert main.main(["verify", text]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"run_id": "x"}]', "[" * 5000])
def test_a_damaged_list_is_named(own_list, text):
    own_list.write_text(text)
    with pytest.raises(UserError, match="is not a list of verified records"):
        verified.verified_by(records.record()[0])
