"""Laws of the race: what training depends on, what is run again, how a trial goes on."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from harness.errors import UserError
from harness.records import run_folder
from harness.records.log import verify
from harness.system.files import atomic_json, read_json
from tests.support.racing import HORIZON, POINTS, Watcher, curve, log_of, race, trial


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted trial."""
    return race(trial("lion", tmp_path_factory.mktemp("finished")))


def stop_at(step, number=signal.SIGTERM):
    """A display that signals this process once, when the trial has come to `step`."""
    sent = []

    def at(now):
        if now >= step and not sent:
            sent.append(now)
            os.kill(os.getpid(), number)

    return Watcher(at)


LAST = ["evaluation", "ended"]


def same(one, other):
    return (
        curve(one.folder) == curve(other.folder)
        and one.record["weights"] == other.record["weights"]
    )


def test_a_finished_run_has_all_its_evaluations_and_an_unbroken_log(finished):
    rows = log_of(finished.folder)
    assert [row["step"] for row in run_folder.evaluations(rows)] == [0, 3, 6, 9, 12]
    between = ["evaluation", "saved"] * (POINTS - 1)
    assert [row["event"] for row in rows] == ["started", "evaluation", *between, *LAST]
    assert finished.outcome == "out_of_budget"
    assert verify(finished.folder / "log.jsonl", finished.record["chain"]) == []
    assert run_folder.finished(finished.folder)["weights"] == rows[-2]["weights"]


def test_the_same_seed_repeats_every_bit(finished, tmp_path):
    again = race(trial("lion", tmp_path))
    assert again.record["run_id"] == finished.record["run_id"]
    assert same(again, finished)


def test_another_seed_is_another_run(finished, tmp_path):
    other = race(trial("lion", tmp_path, seed=1))
    assert other.record["run_id"] != finished.record["run_id"]
    for here, there in zip(curve(other.folder), curve(finished.folder), strict=True):
        assert here["weights"] != there["weights"]


@pytest.mark.parametrize("hp", [{"lr": 1e-3}, {"beta1": 0.95}])
def test_every_hyperparameter_is_part_of_the_run_id(finished, tmp_path, hp):
    assert trial("lion", tmp_path, **hp).run_id != finished.record["run_id"]


def test_isolation_and_a_busy_machine_change_no_bit(finished, tmp_path):
    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        apart = race(trial("lion", tmp_path, isolation="process"))
    finally:
        hog.kill()
        hog.wait()
    assert same(apart, finished)
    assert apart.record["verified"]
    assert not finished.record["verified"]


def test_an_unverified_run_does_not_stand_for_a_verified_one(finished, tmp_path):
    assert trial("lion", tmp_path, isolation="process").run_id != finished.record["run_id"]


def test_the_number_of_evaluations_changes_no_weight(finished, tmp_path):
    rare = race(trial("lion", tmp_path, numbers={"evaluate": {"points": 1, "batch": 80}}))
    assert [row["step"] for row in curve(rare.folder)] == [0, HORIZON]
    assert rare.record["weights"] == finished.record["weights"]


def goal_of(bound):
    return {"goal": {"loss": {"at_most": bound}}}


def test_a_goal_moved_later_is_judged_from_the_log(finished, tmp_path):
    before = race(trial("lion", tmp_path, numbers=goal_of(0.1)))
    assert before.outcome == "out_of_budget"
    easy = curve(finished.folder)[2]["metrics"]["loss"]
    again = race(trial("lion", tmp_path, numbers=goal_of(easy)))
    assert again.record["run_id"] == before.record["run_id"]
    assert again.outcome == "reached"
    assert again.record["target"] == easy
    assert again.record["crossing"]["step"] == 6
    assert again.record["weights"] == before.record["weights"]
    assert again.record["workload_hash"] != before.record["workload_hash"]
    rows = log_of(again.folder)
    assert [row["event"] for row in rows[-2:]] == ["ended", "ended"], "nothing was trained again"
    assert verify(again.folder / "log.jsonl", run_folder.finished(again.folder)["chain"]) == []


def test_a_trial_that_met_an_easier_goal_goes_on_to_a_harder_one(finished, tmp_path):
    easy = curve(finished.folder)[1]["metrics"]["loss"]
    stopped = race(trial("lion", tmp_path, numbers=goal_of(easy)))
    assert (stopped.outcome, stopped.record["step"]) == ("reached", 6)
    further = race(trial("lion", tmp_path, numbers=goal_of(0.1)))
    assert further.outcome == "out_of_budget"
    assert further.record["weights"] == finished.record["weights"]
    assert further.record["lost_steps"] == 0


def test_a_deadline_is_no_part_of_the_result(finished, tmp_path):
    patient = trial("lion", tmp_path, numbers={"deadlines": {"step": 3600}})
    assert patient.run_id == finished.record["run_id"]


def test_a_finished_run_is_not_run_again(finished):
    before = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}
    again = race(trial("lion", finished.folder.parents[3]))
    assert again.record.pop("earlier")
    assert again.record == run_folder.finished(finished.folder)
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize(
    "name", ["torch_adamw", "adamw", "muon", "schedule_free_adamw", "own_step"]
)
def test_a_stopped_trial_goes_on_bit_for_bit(name, tmp_path):
    whole = race(trial(name, tmp_path / "whole"))
    parted = trial(name, tmp_path / "parted")
    stops = (2, 6, 10)  # before the first checkpoint, at an evaluation, between two
    for stop in stops:
        outcome = race(parted, stop_at(stop))
        assert outcome.outcome == "interrupted", outcome.record["reason"]
        assert outcome.exit_code == 75
        assert not (parted.folder / "run.json").exists()
    last = race(parted)
    assert same(last, whole)
    assert last.record["lost_steps"] == 0
    assert [row["step"] for row in log_of(parted.folder) if row["event"] == "resumed"] == [2, 6, 10]


def test_a_stop_before_training_loses_nothing(finished, tmp_path):
    parted = trial("lion", tmp_path)
    assert race(parted, stop_at(0)).outcome == "interrupted"
    assert same(race(parted), finished)


def test_state_that_no_checkpoint_keeps_is_found_out(tmp_path):
    parted = trial("forgetful", tmp_path)
    assert race(parted, stop_at(4)).outcome == "interrupted"
    outcome = race(parted)
    assert outcome.outcome == "failed"
    assert "the weights that came back at step 4 are not" in outcome.record["reason"]


def test_a_second_interrupt_stops_at_once(tmp_path):
    planned, steps = trial("lion", tmp_path), []

    def at(step):
        steps.append(step)
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    outcome = race(planned, Watcher(at))
    assert outcome.outcome == "interrupted"
    assert max(steps) == 4


def test_a_second_interrupt_that_a_library_makes_another_error_of_is_one(tmp_path):
    def at(step):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape") from None

    outcome = race(trial("lion", tmp_path), Watcher(at))
    assert (outcome.outcome, outcome.exit_code) == ("interrupted", 75)


def test_signals_are_as_before_when_the_race_is_over(finished):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        assert "Signals" not in str(signal.getsignal(number))


def test_a_record_of_a_newer_schema_is_left_as_it_is(finished, tmp_path):
    planned = trial("lion", tmp_path)
    shutil.copytree(finished.folder, planned.folder)
    newer = read_json(planned.folder / "run.json") | {"schema": run_folder.SCHEMA + 1}
    atomic_json(planned.folder / "run.json", newer)
    files = {path: path.read_bytes() for path in planned.folder.rglob("*.json*")}
    with pytest.raises(UserError, match="schema 2, written by a newer harness"):
        race(planned)
    assert files == {path: path.read_bytes() for path in planned.folder.rglob("*.json*")}


def test_a_finished_trial_with_a_damaged_log_says_so(finished, tmp_path):
    planned = trial("lion", tmp_path)
    shutil.copytree(finished.folder, planned.folder)
    path = planned.folder / "log.jsonl"
    path.write_text(path.read_text().replace('"step": 6', '"step": 5', 1))
    display = Watcher()
    assert race(planned, display).record["earlier"]
    assert any("is damaged (line" in note for note in display.notes)
    # Asked for more than the record answers, it is refused, and the record stays.
    harder = trial("lion", tmp_path, numbers={"goal": {"loss": {"at_most": 1e-9}}})
    assert harder.folder == planned.folder
    with pytest.raises(UserError, match="is damaged"):
        race(harder)
    assert (planned.folder / "run.json").exists()


@pytest.mark.parametrize("name", ["lion", "adamw", "sgd"])
def test_one_flat_tensor_gives_the_bits_of_many(name, tmp_path):
    """Also where torch's fused kernels take the update, for tensors that fill vector registers.

    torch's fused SGD and AdamW may round the tail of another tensor in another way.
    """
    numbers = {"model": {"width": 16, "hidden": 32}}
    flat = race(trial(name, tmp_path, numbers=numbers))
    many = race(trial(f"list_{name}", tmp_path, numbers=numbers))
    assert [row["weights"] for row in curve(flat.folder)] == [
        row["weights"] for row in curve(many.folder)
    ]


def test_a_price_of_two_passes_halves_the_horizon(tmp_path):
    twice = race(trial("sam", tmp_path))
    assert twice.record["horizon"] == HORIZON // 2
    assert twice.record["counts"] == {"forward_backward": HORIZON}


def test_new_prices_give_a_finished_trial_new_times(finished, tmp_path, monkeypatch):
    from dataclasses import replace

    from harness.clock import prices
    from harness.records.collect import read_folder

    easy = goal_of(curve(finished.folder)[2]["metrics"]["loss"])
    first = race(trial("lion", tmp_path, numbers=easy))
    priced = prices.recorded_table(first.record)
    dear = {kind: price.times(2.0) for kind, price in priced.prices.items()}
    planned = trial("lion", tmp_path, numbers=easy)
    again = race(replace(planned, table=prices.Table(dear, "dearer.json 1")))
    assert again.outcome == first.outcome == "reached"
    assert again.record["time"] == pytest.approx(2 * first.record["time"])
    shown = read_folder(again.folder)
    at = next(
        seconds for step, seconds, _ in shown.curve if step == again.record["crossing"]["step"]
    )
    assert at == pytest.approx(again.record["time"], rel=1e-6)
