"""The fault matrix: each fault has a named end, harms no other result, and can be gone on from.

Faults that a submission makes, and damage to single files, are in test_faults.py, test_files.py and
test_checkpoint.py. Here a whole trial is disturbed, at every place where that is possible.
"""

import errno
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benches import soak
from harness.cli import main
from harness.errors import UserError
from harness.records import run_folder
from harness.records.rules.verdict import examine
from harness.system import paths
from harness.system.files import atomic_json, read_json
from tests.conftest import FailingDisk
from tests.support import tiny
from tests.support.racing import Watcher, at_work_in, command, curve, environment, log_of

NAMED = {
    *run_folder.FINAL,
    "failed",
    "disk_full",
    "oom",
    "interrupted",
    "timeout",
    "killed",
    "busy",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed trial: what every disturbed one must come to, and another's result."""
    outcome = tiny.race(tiny.trial("lion", tmp_path_factory.mktemp("whole")))
    assert outcome.outcome == "out_of_budget"
    return outcome


@pytest.fixture(autouse=True)
def neighbour(whole):
    """No fault touches the result of another trial."""
    before = tiny.content(whole.folder)
    yield
    assert tiny.content(whole.folder) == before


def same(folder, whole):
    """The trial came to the end of the undisturbed one, and its record keeps every rule."""
    mine = run_folder.finished(folder)
    assert mine
    assert (mine["weights"], mine["outcome"]) == (whole.record["weights"], whole.outcome)
    assert curve(folder) == curve(whole.folder)
    (verdict,) = examine([folder])
    assert verdict.fails == []
    return mine


def end_of(planned, watcher=None):
    """The named end of an attempt; a refusal has its message."""
    try:
        outcome = tiny.race(planned, watcher)
    except UserError as error:
        return "refused", str(error)
    assert outcome.outcome in NAMED
    assert outcome.record.get("reason") or outcome.outcome in run_folder.FINAL
    return outcome.outcome, outcome.record.get("reason")


# Writes


@pytest.mark.parametrize(
    "code, stride",
    [
        (errno.EIO, 4),
        (errno.ENOSPC, 7),  # the way is the same, the name of the end is another
        *(pytest.param(code, 1, marks=pytest.mark.slow) for code in (errno.EIO, errno.ENOSPC)),
    ],
)
def test_any_write_of_a_trial_may_fail(code, stride, whole, tmp_path, monkeypatch):
    """Every open, write, fsync and rename in turn: a named end, and the same command goes on."""
    monkeypatch.setattr("traceback.print_exc", lambda: None)
    for at in itertools.count(1, stride):
        planned = tiny.trial("lion", tmp_path / str(at))
        with pytest.MonkeyPatch.context() as patch:
            disk = FailingDisk(patch, at, code)
            told, why = end_of(planned)
        if disk.calls < at:
            break
        assert told in {"refused", "disk_full" if code == errno.ENOSPC else "failed"}
        assert os.strerror(code) in why or "bytes are needed" in why
        if done := run_folder.finished(planned.folder):  # only making it durable failed
            assert done["weights"] == whole.record["weights"]
        assert end_of(planned)[0] == whole.outcome
        same(planned.folder, whole)
        shutil.rmtree(tmp_path / str(at))
    assert at > 50


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_trial_may_die_in_any_write(stride, whole, tmp_path):
    """As by a power failure: the process ends in the call, half of what it writes is written."""
    for at in itertools.count(1, stride):
        planned = tiny.trial("lion", tmp_path / str(at))
        planned.results.mkdir()
        status = soak.waited(soak.attempt(planned, soak.failing(at, None)))
        if status == 0:
            break
        assert status == soak.CUT
        assert end_of(planned)[0] == whole.outcome
        same(planned.folder, whole)
    assert at > 50


@pytest.mark.parametrize("size", [0, 500, 1000, 3000, 5000])
def test_a_quota_is_named_and_with_more_room_it_goes_on(size, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("traceback.print_exc", lambda: None)
    planned = tiny.trial("lion", tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        told, why = end_of(planned)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told == "disk_full"
    assert "bytes are needed" in why
    assert end_of(planned)[0] == whole.outcome
    same(planned.folder, whole)


# Memory


@pytest.mark.parametrize(
    "way", [pytest.param("limit", marks=pytest.mark.skipif(not soak.LINUX, reason="/proc")), "gpu"]
)
def test_a_submission_out_of_memory_is_named(way, tmp_path):
    isolation = "process" if way == "limit" else "inline"
    told, why = end_of(tiny.trial("hungry", tmp_path, way=way, isolation=isolation))
    assert told == "oom"
    assert "memory" in why
    assert at_work_in(tmp_path) == []


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("out of memory")])
def test_a_referee_out_of_memory_is_named_and_goes_on(error, whole, tmp_path, monkeypatch):
    from harness.race.evaluator import Evaluator

    planned, real, left = tiny.trial("lion", tmp_path), Evaluator.__call__, [2]

    def evaluate(self, *arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise error
        return real(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "__call__", evaluate)
        assert end_of(planned)[0] == "oom"
    assert end_of(planned)[0] == whole.outcome
    same(planned.folder, whole)


# Files that are not what was written


@given(data=st.data())
@settings(max_examples=20)
def test_a_damaged_trial_goes_on_or_says_what_to_do(whole, tmp_path_factory, data):
    planned = tiny.trial("lion", tmp_path_factory.mktemp("damaged"))
    asked = []

    def stop(step):
        if step == 8 and not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))

    assert end_of(planned, Watcher(stop))[0] == "interrupted"
    kept = sorted((planned.folder / "checkpoint").glob("step-*"))
    files = dict(zip(("older", "newest"), kept, strict=True))
    files |= {name: planned.folder / name for name in ("log.jsonl", "config.yaml", "progress")}
    files["source"] = next((planned.folder / "source").rglob("*.py"))
    path = files[data.draw(st.sampled_from(sorted(files)), label="file")]
    content = bytearray(path.read_bytes())
    at = int(data.draw(st.floats(0, 1), label="place") * (len(content) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "zero", "insert", "remove"])):
        case "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del content[at:]
        case "zero":
            content[at:] = bytes(len(content) - at)
        case "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        case "remove":
            content = None
    path.unlink() if content is None else path.write_bytes(content)
    told, why = end_of(planned)
    if told == whole.outcome:
        assert same(planned.folder, whole)["lost_steps"] <= tiny.STEPS
    else:
        assert told in {"refused", "failed"}
        assert str(planned.folder) in why
        assert "start again" in why
        shutil.rmtree(planned.folder)
        assert end_of(planned)[0] == whole.outcome


@pytest.fixture
def strange(whole, tmp_path):
    """A results folder with a good record among what does not belong there."""
    results = tmp_path / "results"
    good = results / "runs" / "matrix_sensing" / "lion" / whole.folder.name
    shutil.copytree(whole.folder, good)
    runs = results / "runs"
    texts = {"half": '{"schema": 1', "list": "[]", "number": "3", "bytes": "\0\0", "empty": ""}
    texts |= {"old": json.dumps({"schema": 0}), "bare": json.dumps({"schema": 1})}
    for name, text in texts.items():
        (runs / "matrix_sensing" / "lion" / name).mkdir()
        (runs / "matrix_sensing" / "lion" / name / "run.json").write_text(text)
        (runs / "matrix_sensing" / "lion" / name / "log.jsonl").write_text(text)
    (runs / "a file").write_text("mine")
    (runs / "two words" / "é\nline" / "ö").mkdir(parents=True)
    (runs / "matrix_sensing" / "lion" / "loop").symlink_to(runs / "matrix_sensing" / "lion")
    (runs / "matrix_sensing" / "nowhere").symlink_to(tmp_path / "nothing")
    (runs / "matrix_sensing" / "lion" / "folder" / "run.json").mkdir(parents=True)
    (results / "board").mkdir()
    (results / "board" / "notes.jsonl").write_text("not JSON\n[1]\n")
    return results


@pytest.mark.parametrize("words", [["report", "--out", "out"], ["comply"], ["sync"]])
def test_foreign_files_are_named_and_in_nobodys_way(words, strange, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.report.run.mirror.forward", lambda *_: 0)
    command, *rest = words
    status = main.main([command, str(strange), *rest])
    told = capsys.readouterr().out
    assert status == (3 if command == "comply" else 0)
    if command == "comply":
        assert told.count("pass  matrix_sensing.mini lion seed 0") == 1
        for name in ("half", "list", "number", "bytes", "empty", "old", "bare", "folder"):
            assert f"lion/{name}" in told
    if command == "report":
        page = (tmp_path / "out" / "LEADERBOARD.md").read_text()
        assert "lion/half" in page + (tmp_path / "out" / "index.html").read_text()


def test_foreign_files_do_not_hide_results_from_show(strange, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(["show", "lion"]) == 0
    assert "out_of_budget" in capsys.readouterr().out


STRANGE = ["two words", "éß語", "new\nline", "quote'\"s", "x=1,y=[2]", "-dash", "$HOME", "a" * 200]


@pytest.mark.parametrize("name", STRANGE)
def test_any_path_will_do(name, whole, tmp_path, capsys):
    planned = tiny.trial("lion", tmp_path / name)
    assert end_of(planned)[0] == whole.outcome
    same(planned.folder, whole)
    assert main.main(["comply", str(tmp_path / name)]) == 0
    assert main.main(["report", str(tmp_path / name), "--out", str(tmp_path / f"{name} out")]) == 0


# Signals, and processes beside each other


def test_signals_at_random_moments_only_interrupt(whole, tmp_path):
    chance = random.Random(0)
    planned = tiny.trial("lion", tmp_path)
    statuses = []
    for _ in range(30):
        pid = soak.attempt(planned)
        time.sleep(chance.uniform(0, 0.06))
        for number in chance.sample((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1), 1):
            os.kill(pid, number)
        statuses.append(soak.waited(pid))
        if run_folder.finished(planned.folder):
            break
    # By the signal itself: before the trial has begun there is nothing to save.
    assert set(statuses) <= {0, 75, -signal.SIGTERM, -signal.SIGINT, -signal.SIGUSR1}
    assert end_of(planned)[0] == whole.outcome
    assert same(planned.folder, whole)["lost_steps"] == 0


def test_many_at_once_in_one_folder_run_every_trial_once(tmp_path):
    """Six processes, each with the same twelve trials, as sweeps on several machines would."""
    planned = [tiny.trial("lion", tmp_path, seed=seed) for seed in range(12)]

    def sweep():
        while not all(run_folder.finished(one.folder) for one in planned):
            for one in planned:
                tiny.race(one)

    pids = []
    for _ in range(6):
        pid = os.fork()
        if not pid:
            try:
                sweep()
                os._exit(0)
            finally:
                os._exit(99)
        pids.append(pid)
    assert [soak.waited(pid) for pid in pids] == [0] * 6
    for one in planned:
        events = [row["event"] for row in log_of(one.folder)]
        between = ["evaluation", "saved"] * (tiny.POINTS - 1)
        assert events == ["started", "evaluation", *between, "evaluation", "ended"]


@pytest.mark.parametrize("ends", ["stdout", pytest.param("both", marks=pytest.mark.slow)])
def test_a_reader_that_goes_away_does_not_end_a_race(ends, whole, tmp_path):
    """As `harness ... | head -1` does, or a terminal that is closed."""
    words = [*tiny.WORDS, "submission=lion", f"results={tmp_path}", "isolation=inline"]
    user = subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
        env=environment(),
    )  # fmt: skip
    if ends != "stderr":
        user.stdout.close()
    if ends != "stdout":
        user.stderr.close()
    said = [stream.read() for stream in (user.stdout, user.stderr) if not stream.closed]
    status = user.wait(120)
    for stream in (user.stdout, user.stderr):
        stream.close()
    assert status == 0
    assert not any(b"Traceback" in text or b"Error" in text for text in said)
    (folder,) = tmp_path.glob("runs/*/*/*")
    assert run_folder.finished(folder)["weights"] == whole.record["weights"]


# The clock of the machine, and its network


def test_a_clock_that_jumps_changes_no_result(whole, tmp_path, monkeypatch):
    jumps = iter([3e7, -3e7] * 1000)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    planned = tiny.trial("lion", tmp_path)
    assert end_of(planned)[0] == whole.outcome
    mine = same(planned.folder, whole)
    assert 0 < mine["end"]["total"] < 60


@pytest.mark.slow
@pytest.mark.skipif(not soak.LINUX, reason="reads the runner's folder in /proc")
def test_a_machine_that_sleeps_beyond_a_deadline_ends_nothing(tmp_path):
    """Suspended or stopped (Ctrl-Z), the steps' deadline of two seconds passes; nobody hung.

    The path is a strange one, which the runner has to find as well.
    """
    whole = tiny.race(tiny.trial("unhurried", tmp_path / "whole", wait=0))
    planned = tiny.trial(
        "unhurried", tmp_path / "two words\né", isolation="process",
        numbers={"deadlines": {"step": 2}}, wait=0.1,
    )  # fmt: skip
    planned.results.mkdir()
    referee = soak.attempt(planned)
    while soak.progress(planned.results) < 3:
        time.sleep(0.01)
    (runner,) = at_work_in(planned.results)
    for pid in (runner, referee):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(3.5)
    os.kill(referee, signal.SIGCONT)  # it wakes first, and has seen no step for long
    time.sleep(0.3)
    os.kill(runner, signal.SIGCONT)
    assert soak.waited(referee) == 0, (planned.results / "errors").read_text()
    same(planned.folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {
            "HOME": "/proc/nothing", "WANDB_DIR": "/proc/nothing", "WANDB_MODE": "offline",
            "HARNESS_CACHE": str(paths.cache_folder()),
        },
        {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_MODE": ""},
    ],
    ids=["no home", "no network"],
)  # fmt: skip
def test_a_broken_tracker_changes_no_result(changes, whole, tmp_path):
    words = [*(w for w in tiny.WORDS if w != "tracker=none"), "tracker=wandb", "submission=lion"]
    kept = {k: v for k, v in (environment() | changes).items() if v}
    begun = time.monotonic()
    done = subprocess.run(
        command(*words, f"results={tmp_path}"), capture_output=True, text=True, env=kept,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < 60
    (folder,) = tmp_path.glob("runs/*/*/*")
    assert run_folder.finished(folder)["weights"] == whole.record["weights"]
    assert curve(folder) == curve(whole.folder)
    for mirror in at_work_in("/"):  # it may wait for the network for minutes: it is ours to end
        with open(f"/proc/{mirror}/cmdline", "rb") as file:
            if str(folder).encode() in file.read():
                os.kill(mirror, signal.SIGKILL)


# All of it, at random


def test_random_faults_change_nothing_but_the_time(tmp_path):
    tally = soak.Tally()
    soak.run(tally, tmp_path / "soak", faults=20, minutes=2, share=0)
    assert tally.problems == []
    assert sum(tally.faults.values()) > 12


def test_the_soak_notices_what_went_wrong(whole, tmp_path):
    """A record with other weights, another outcome or unpaid losses is reported."""
    planned = tiny.trial("lion", tmp_path)
    assert soak.differences(tmp_path, whole.folder, 0) == ["it did not end"]
    tiny.race(planned)
    assert soak.differences(tmp_path, whole.folder, 0) == []
    assert soak.differences(tmp_path, whole.folder, 3) == ["3 steps were repeated, 0 were charged"]
    path = planned.folder / "run.json"
    atomic_json(path, read_json(path) | {"weights": "0"})
    told = soak.differences(tmp_path, whole.folder, 0)
    assert told[0].startswith("weights: 0, undisturbed ")
    assert any(
        "run.json says what the log's last row says (they differ in weights)" in t for t in told
    )
