"""Laws of trouble: an end is named, the curve kept and the work charged, whatever happens."""

import os
import random
import signal
import socket
import subprocess
import time

import pytest

from benches import soak
from harness.race import runner_child
from harness.race.runner_base import TrialEnded
from harness.records import run_folder
from harness.records.rules.verdict import examine
from harness.system.messages import Channel
from harness.train.shared_weights import shared_file
from tests.support.racing import (
    HORIZON,
    ROOT,
    SMALL,
    Watcher,
    at_work_in,
    command,
    curve,
    environment,
    log_of,
    planned,
    race,
    trial,
)  # fmt: skip


def wait_until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def steps_of(folder):
    path = folder / "progress"
    return int.from_bytes(path.read_bytes()[:8], "little") if path.exists() else 0


def fails(fault, tmp_path, **settings):
    return race(trial("faulty", tmp_path, fault=fault, **settings))


# What a submission does wrong


@pytest.mark.parametrize("fault", ["explode", "nan_state"])
def test_a_loss_that_explodes_is_diverged_and_its_curve_kept(fault, tmp_path):
    outcome = fails(fault, tmp_path) if fault == "explode" else race(trial("explosive", tmp_path))
    assert outcome.outcome == "diverged"
    assert outcome.exit_code == 1
    assert run_folder.finished(outcome.folder)["outcome"] == "diverged"  # and never run again
    steps = [row["step"] for row in curve(outcome.folder)]
    assert steps[0] == 0
    assert steps[-1] < HORIZON


def test_state_that_is_not_finite_survives_a_checkpoint(tmp_path):
    outcome = fails("nan_state", tmp_path)
    assert outcome.outcome == "out_of_budget"  # nothing of that state reached a weight


def test_an_exception_names_the_line_of_the_submission(tmp_path):
    outcome = fails("raise", tmp_path)
    source = trial("faulty", tmp_path).card.plugin.path
    line = 1 + source.read_text().split("\n").index('        raise ValueError("five is too many")')
    assert outcome.outcome == "failed"
    assert outcome.record["reason"] == f"ValueError: five is too many ({source}:{line}, in fail)"
    assert [row["step"] for row in curve(outcome.folder)] == [0, 3]


@pytest.mark.parametrize("fault", ["memory", "allocate"])
def test_memory_that_runs_out_is_named(fault, tmp_path):
    assert fails(fault, tmp_path).outcome == "oom"


def test_a_submission_that_exits_has_failed(tmp_path):
    outcome = fails("exit", tmp_path)
    assert outcome.outcome == "failed"
    assert "SystemExit" in outcome.record["reason"]


def test_changed_gradients_change_nothing_else(tmp_path):
    assert curve(fails("grads", tmp_path).folder) == curve(fails("none", tmp_path).folder)


def test_a_failed_trial_is_run_again_and_leaves_no_stale_record(tmp_path):
    first = fails("raise", tmp_path)
    assert (first.folder / "run.json").exists()
    seen = []
    planned = trial("faulty", tmp_path, fault="raise")
    race(planned, Watcher(lambda step: seen.append((step, (first.folder / "run.json").exists()))))
    assert seen
    assert not any(there for _, there in seen)
    assert min(step for step, _ in seen) == 3  # from its checkpoint on


@pytest.mark.parametrize("fault", [pytest.param("os_exit", marks=pytest.mark.slow), "fork"])
def test_a_runner_that_vanishes_is_noticed(fault, tmp_path):
    """Also when a child of its own keeps the line to the referee open."""
    began = time.monotonic()
    outcome = fails(fault, tmp_path, isolation="process")
    assert outcome.outcome == "failed"
    assert "without a word" in outcome.record["reason"]
    assert time.monotonic() - began < runner_child.TICK + 100
    assert at_work_in(tmp_path) == []


def test_a_hung_step_ends_at_its_deadline_with_its_stacks(tmp_path):
    outcome = fails("hang", tmp_path, isolation="process", numbers={"deadlines": {"step": 3}})
    assert outcome.outcome == "timeout"
    assert "no step finished within 3 s (after step 4)" in outcome.record["reason"]
    assert "faulty.py" in (outcome.folder / "runner.log").read_text()
    assert at_work_in(tmp_path) == []


def test_what_a_submission_prints_is_kept_and_harms_nothing(tmp_path):
    outcome = fails("print", tmp_path, isolation="process")
    assert outcome.outcome == "out_of_budget"
    text = (outcome.folder / "runner.log").read_text()
    assert "a line on stdout" in text
    assert "a line on stderr" in text


def test_a_full_disk_is_named_with_the_bytes_needed(tmp_path):
    outcome = fails("disk", tmp_path, isolation="process")
    assert outcome.outcome == "disk_full"
    assert "bytes are needed" in outcome.record["reason"]
    assert [row["step"] for row in curve(outcome.folder)] == [0, 3, 6]


# What happens to a trial's files


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return race(trial("lion", tmp_path_factory.mktemp("whole")))


def stopped(tmp_path, at=10):
    """A trial stopped at step 10: its checkpoints are those of 9 and 10."""
    planned = trial("lion", tmp_path)
    race(planned, Watcher(lambda step: step == at and os.kill(os.getpid(), signal.SIGTERM)))
    return planned


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def checkpoints(planned):
    return sorted((planned.folder / "checkpoint").glob("step-*"))


def test_a_damaged_checkpoint_is_passed_over_and_the_loss_charged(whole, tmp_path):
    planned, display = stopped(tmp_path), Watcher()
    damage(checkpoints(planned)[-1])
    outcome = race(planned, display)
    assert curve(outcome.folder) == curve(whole.folder)
    assert outcome.record["lost_steps"] == 1
    assert "it is corrupt or truncated" in display.notes[0]
    assert (
        display.notes[1] == f"continued at step 9 of {HORIZON}; 1 steps were lost and are charged"
    )


def test_without_any_checkpoint_training_starts_again_and_says_so(whole, tmp_path):
    planned, display = stopped(tmp_path), Watcher()
    for path in checkpoints(planned):
        damage(path)
    outcome = race(planned, display)
    assert curve(outcome.folder) == curve(whole.folder)
    assert outcome.record["lost_steps"] == 10
    assert f"continued at step 0 of {HORIZON}; 10 steps were lost and are charged" in display.notes


def test_lost_steps_add_up_over_attempts(whole, tmp_path):
    planned = stopped(tmp_path)
    for step in (10, 11):
        for path in checkpoints(planned):
            path.unlink()
        if step == 10:
            race(planned, Watcher(lambda now: now == 5 and os.kill(os.getpid(), signal.SIGTERM)))
    outcome = race(planned)
    assert outcome.record["lost_steps"] == 10 + 5
    assert curve(outcome.folder) == curve(whole.folder)


def test_lost_steps_cost_time(whole, tmp_path):
    planned = stopped(tmp_path)
    for path in checkpoints(planned):
        path.unlink()
    end = race(planned).record["end"]
    assert end["lost"] >= 0.999 * end["counted"] * 10 / HORIZON
    assert whole.record["end"]["lost"] == 0


def test_a_torn_log_line_is_cut_off(whole, tmp_path):
    planned = stopped(tmp_path)
    with open(planned.folder / "log.jsonl", "a") as file:
        file.write('{"event": "evalu')
    assert curve(race(planned).folder) == curve(whole.folder)


def test_a_damaged_record_is_made_again(whole, tmp_path):
    planned = stopped(tmp_path)
    (planned.folder / "run.json").write_text('{"outcome": "rea')
    assert curve(race(planned).folder) == curve(whole.folder)


# What happens to its processes


def start(tmp_path):
    """A long race in a process group of its own, once it has made some steps."""
    numbers = ["workload.mini.horizon=1000000", "workload.mini.evaluate.points=1000"]
    user = subprocess.Popen(
        command(*SMALL, *numbers, f"results={tmp_path}", "submission=lion"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=environment(), cwd=tmp_path,
    )  # fmt: skip
    folders = lambda: list(tmp_path.glob("runs/*/*/*"))  # noqa: E731
    wait_until(lambda: user.poll() is not None or (folders() and steps_of(folders()[0]) > 5))
    assert user.poll() is None, user.stderr.read()
    return user, folders()[0]


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT]
)
def test_a_signal_to_the_whole_group_saves_and_exits_75(number, tmp_path):
    """A terminal's Ctrl-C reaches the runner too, which leaves it to the referee."""
    user, folder = start(tmp_path)
    os.killpg(user.pid, number)
    out, err = user.communicate(timeout=60)
    assert user.returncode == 75, err
    assert "interrupted" in out
    assert log_of(folder)[-2]["event"] in ("paused", "evaluation", "saved")
    assert log_of(folder)[-2]["step"] == steps_of(folder)
    assert checkpoints_of(folder)[-1] == steps_of(folder)
    assert at_work_in(tmp_path) == []


def checkpoints_of(folder):
    return sorted(int(path.name.split("-")[1]) for path in (folder / "checkpoint").glob("step-*"))


def test_the_runner_leaves_an_interrupt_to_the_referee(tmp_path):
    planned = trial("unhurried", tmp_path, isolation="process", numbers={"horizon": 5000})
    referee, folder = soak.attempt(planned), planned.folder
    wait_until(lambda: steps_of(folder) > 5)
    (runner,) = at_work_in(tmp_path / "private")
    os.kill(runner, signal.SIGINT)
    before = steps_of(folder)
    wait_until(lambda: steps_of(folder) > before + 3)
    for _ in range(2):
        os.killpg(referee, signal.SIGINT)
        time.sleep(0.05)
    began = time.monotonic()
    assert soak.waited(referee) == 75
    assert time.monotonic() - began < 15
    assert at_work_in(tmp_path) == []


def strike(planned, victim, step):
    """Kill the referee or the runner of a trial once it has made `step` steps; its exit status."""
    pid = soak.attempt(planned)
    wait_until(lambda: steps_of(planned.folder) >= step)
    (runner,) = at_work_in(planned.results)
    os.kill(pid if victim == "referee" else runner, signal.SIGKILL)
    status = soak.waited(pid)
    assert soak.orphans(planned.results) == []
    return status


@pytest.mark.slow  # test_fault_matrix.py has a shorter one, of several kinds of faults
def test_kills_change_nothing_but_the_time(tmp_path):
    """The referee dies before the first checkpoint, at step 75, and the runner after it."""
    numbers = {"horizon": 300, "evaluate": {"points": 4, "batch": 60}}
    whole = race(trial("unhurried", tmp_path / "whole", numbers=numbers, wait=0))
    planned = trial("unhurried", tmp_path / "struck", numbers=numbers, isolation="process")
    planned.results.mkdir()
    assert strike(planned, "referee", 20) == -signal.SIGKILL
    assert strike(planned, "runner", 110) == run_folder.exit_code("killed") == 75
    outcome = race(planned)
    assert outcome.outcome == whole.outcome == "out_of_budget"
    assert curve(outcome.folder) == curve(whole.folder)
    assert outcome.record["lost_steps"] >= 20 + 110 - 75
    (verdict,) = examine([outcome.folder])
    assert verdict.fails == []


@pytest.mark.slow
def test_kills_of_a_command_line_change_nothing_but_the_time(tmp_path):
    tally = soak.Tally()
    chance = random.Random(2)
    while sum(tally.faults.values()) < 3 and tally.trials < 4:  # a trial may end before it is hit
        soak.apart(tally, tmp_path, chance, 5)
    assert tally.problems == []
    assert sum(tally.faults.values()) >= 3


# The time between a hand-over and its evaluation.


@pytest.fixture
def child(tmp_path):
    """Yield a runner's process that waits for its first message, and the other end of its words."""
    fd = shared_file()
    (tmp_path / "run").mkdir()
    child = runner_child.RunnerChild(tmp_path / "run", tmp_path / "private", [], fd, 1, set())
    ours, theirs = socket.socketpair()
    child._channel.close()
    child._channel = Channel(ours)
    yield child, Channel(theirs)
    child.close()
    theirs.close()
    os.close(fd)


def ending_while_judged(child):
    with pytest.raises(TrialEnded) as ended, child.frozen():
        pass
    return ended.value.outcome, ended.value.message


def test_a_runner_that_is_killed_after_its_hand_over_was_killed(child):
    child, words = child
    os.kill(child._process.pid, signal.SIGKILL)
    words.close()
    outcome, reason = ending_while_judged(child)
    assert (outcome, reason[:32]) == ("killed", "the runner was killed by SIGKILL")


def test_a_failure_that_is_reported_after_a_hand_over_is_that_failure(child):
    child, words = child
    words.send("failed", outcome="killed", error="rank 1 was killed by SIGKILL", traceback="")
    assert ending_while_judged(child) == ("killed", "rank 1 was killed by SIGKILL")


@pytest.mark.parametrize("fields", [{"own": 0.0}, {"own": "much"}, {}])
def test_any_other_word_after_a_hand_over_is_false(fields, child):
    child, words = child
    words.send("saved", **fields)
    assert ending_while_judged(child)[0] == "invalid"


OWN_MEMORY = """
SPACE = {}


class Algorithm:
    def __init__(self, task, hp):
        self.room = task.memory

    def step(self): ...

    def state_dict(self):
        return {}

    def load_state_dict(self, state): ...
"""


@pytest.mark.parametrize(
    "workload, submission, why",
    [
        ("matrix_sensing", "irls", "exactly two factors"),
        ("matrix_sensing", "muon", "found nothing to act on"),
        ("pinn_poisson", "tpsgd", "do not have one label each"),
        ("pinn_poisson", "mixup", "have no 'inputs'; they have points"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused_with_status_2(workload, submission, why, tmp_path):
    ended = race(planned(workload, submission, tmp_path, isolation="inline"))
    assert ended.outcome == "refused"
    assert ended.exit_code == 2
    assert why in ended.record["reason"]
    assert str(ROOT) not in ended.record["reason"]


def test_a_file_of_the_users_that_is_told_no_has_failed(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN_MEMORY)
    ended = race(planned("matrix_sensing", file, tmp_path, isolation="inline"))
    assert ended.outcome == "failed"
    assert ended.exit_code == 1
    assert "is not a stream" in ended.record["reason"]
