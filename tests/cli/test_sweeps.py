"""A sweep says what it will do, shows how far it is, stops when asked, and lists every trial."""

import io
import os
import re
import signal
import subprocess
import time

import pytest

from harness.cli import sweep_plan, sweep_trial, sweep_watch
from harness.report.run.live import SweepLines
from harness.report.run.text import duration, table
from harness.system.files import locked
from tests.support.racing import ROOT, SHORT, command, environment, log_of, typed

QUICK = [*SHORT, "isolation=inline", "hydra/launcher=basic", "submission=lion"]


def columns_of(line):
    return re.split(r"\s{2,}", line.strip())


# Before


def test_dry_says_number_seconds_and_point_of_every_trial(tmp_path):
    status, out, _ = typed(
        "-m", "submission=lion,schedule_free_adamw", "trial=range(0,2)", "jobs=2", "dry=true",
        "tracker=none", f"results={tmp_path}",
    )  # fmt: skip
    assert status == 0
    *lines, last = out.splitlines()
    rows = [columns_of(line) for line in lines]
    assert [row[2:5] for row in rows] == [
        [name, "seed 0", f"trial {number}"]
        for name in ("lion", "schedule_free_adamw")
        for number in (0, 1)
    ]
    assert {row[0] for row in rows} == {"to run"}
    assert all(re.fullmatch(r"~\d+ (s|min)", row[6]) for row in rows)
    assert re.fullmatch(
        r"4 trials: 0 done, 4 to run; about .* with 2 at a time, by recorded trials \(4 of 4 .*\)",
        last,
    )
    assert list(tmp_path.iterdir()) == []


def test_every_combination_is_planned_with_what_is_swept():
    words = ["submission=lion", "seed=1,2", "submission.lr=1e-3,2e-3", "tracker=none"]
    planned = sweep_plan.plan(_parsed(*words))
    assert [(p.trial.seed, p.trial.hp["lr"]) for p in planned] == [
        (1, 1e-3), (1, 2e-3), (2, 1e-3), (2, 2e-3),
    ]  # fmt: skip
    assert [p.swept for p in planned[:2]] == [{"lr": "0.001"}, {"lr": "0.002"}]
    assert planned[3].label == "gpt2/lion seed 2 lr=0.002"
    assert len({p.trial.run_id for p in planned}) == 4


def test_planning_many_trials_gives_what_hydra_composes_for_each():
    planned = sweep_plan.plan(_parsed("submission=lion", "seed=3,4", "trial=0,1"))
    for each in planned:
        (alone,) = sweep_plan.plan(_parsed(*each.words))
        assert alone.trial.run_id == each.trial.run_id
    assert planned[0].swept.keys() >= {"lr", "wd"}


def test_a_value_that_cannot_be_raced_is_said_before_anything_runs(tmp_path):
    words = ["-m", "submission=lion", "submission.lr=1e-3,7", "dry=true", f"results={tmp_path}"]
    status, out, err = typed(*words)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert err.startswith("harness: submission.lr=7 is outside its range; 0.0001 to 0.005")
    assert out.splitlines()[-1].startswith("1 trial: 0 done, 1 to run")


def test_headings_are_short_and_unlike():
    keys = ["seed", "submission.lr", "workload.mini.batch", "workload.base.batch"]
    assert sweep_plan._headings(keys) == {
        "submission.lr": "lr",
        "workload.mini.batch": "workload.mini.batch",
        "workload.base.batch": "workload.base.batch",
    }


@pytest.mark.parametrize(
    "seconds, text", [(0.2, "1 s"), (89, "89 s"), (100, "2 min"), (7800, "2 h 10 min")]
)
def test_durations_are_written_as_people_say_them(seconds, text):
    assert duration(seconds) == text


# Meanwhile


def test_plain_lines_say_how_many_trials_are_done(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("harness.report.run.live.time.monotonic", lambda: clock[0])
    stream = io.StringIO()
    lines = SweepLines(stream)
    for second in range(40):
        clock[0] = float(second)
        lines.draw("3 of 9 trials done", ["gpt2/lion seed 1  5/12 steps"])
    lines.close()
    blocks = stream.getvalue().splitlines()
    assert blocks[:2] == ["3 of 9 trials done", "  gpt2/lion seed 1  5/12 steps"]
    # after 0, 15 and 37.5 seconds: the pauses grow
    assert len(blocks) == 6


def test_the_time_left_follows_the_trials_so_far(tmp_path, monkeypatch):
    words = ["submission=lion", "seed=0,1", f"results={tmp_path}"]
    planned = sweep_plan.plan(_parsed(*words))
    watch = sweep_watch.Watch(tmp_path / "sweeps", planned, planned, jobs=2)
    cost = sum(watch.costs.values())
    assert watch.known
    expected = duration(cost / 2)
    assert watch._head(cost) == f"0 of 2 trials done, 0 running, about {expected} left"
    watch.begun = time.monotonic() - 300
    # a quarter took five minutes, so three quarters take fifteen
    assert watch._head(0.75 * cost).endswith("about 15 min left")


# Afterwards


def test_the_table_has_a_column_for_what_is_swept():
    result = {"workload": "gpt2", "submission": "lion", "seed": 0, "goal": {"loss": {"at_most": 3}}}
    results = [result | {"outcome": "failed", "swept": {"lr": lr}} for lr in ("1e-3", "2e-3")]
    head, *rows = [columns_of(line) for line in table(results, io.StringIO()).splitlines()]
    assert head[3:6] == ["trial", "lr", "outcome"]
    assert [row[4] for row in rows] == ["1e-3", "2e-3"]


def test_trials_of_other_processes_are_in_the_table(tmp_path):
    place = f"results={tmp_path}"
    assert typed(*QUICK[:-2], "submission=lion", "seed=1", place)[0] == 0
    (busy,) = sweep_plan.plan(_parsed(*QUICK[:-2], "submission=lion", "seed=0", place))
    with locked(busy.trial.folder) as mine:
        assert mine
        status, out, err = typed("-m", *QUICK, "seed=0,1", place)
    assert status == 0, err
    rows = [columns_of(line) for line in out.splitlines()]
    assert [row[2:5:2] for row in rows[1:]] == [["0", "runs elsewhere"], ["1", "out of budget"]]
    assert "1 of 2 trials were run before" in err
    assert "by another process: left to it" in err


def test_a_sweep_that_was_asked_to_stop_starts_no_trial(tmp_path):
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    sweep_trial.stop(tmp_path)
    settings = HydraConfig.instance()
    before = settings.cfg
    settings.cfg = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    sweep_trial.in_command = True
    try:
        assert sweep_trial.job(OmegaConf.create()) == {"exit": 75, "outcome": "not started"}
    finally:
        settings.cfg, sweep_trial.in_command = before, False


LONG = ["workload.mini.horizon=4000", "workload.mini.evaluate.points=8"]


def _sweep(tmp_path, *words):
    line = command("-m", "submission=lion", "seed=range(0,4)", f"results={tmp_path}", *words)
    return subprocess.Popen(
        line, cwd=ROOT, env=environment(), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def _until_two_train(tmp_path):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        logs = list(tmp_path.glob("runs/gpt2/lion/*/log.jsonl"))
        if sum(any(row["event"] == "evaluation" for row in log_of(p.parent)) for p in logs) == 2:
            return
        time.sleep(0.5)
    raise TimeoutError("no two trials train")


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_saves_the_running_trials_and_says_what_is_left(tmp_path, whole_group):
    """A terminal signals the whole process group; `kill` the command alone."""
    words = [*SHORT[:1], SHORT[2], *LONG]
    sweep = _sweep(tmp_path, *words)
    _until_two_train(tmp_path)
    if whole_group:
        os.killpg(sweep.pid, signal.SIGINT)
    else:
        sweep.send_signal(signal.SIGTERM)
    out, err = sweep.communicate(timeout=120)
    assert sweep.returncode == 75, err
    assert "stopping: 2 running trials save their state" in err
    assert "interrupted: 0 of 4 trials have ended, 4 are left; the same command continues" in err
    assert "Traceback" not in err
    outcomes = [columns_of(line)[4] for line in out.splitlines()[1:]]
    assert sorted(outcomes) == ["interrupted"] * 2 + ["not started"] * 2
    folders = list(tmp_path.glob("runs/gpt2/lion/*"))
    assert len(folders) == 2
    for folder in folders:
        assert log_of(folder)[-1]["outcome"] == "interrupted"
        assert list((folder / "checkpoint").iterdir())
    assert not (tmp_path / "sweeps").exists()


def _parsed(*words):
    from harness.cli import config

    _, *rest = config.register(["-m", *words])
    return sweep_plan.parsed(rest)
