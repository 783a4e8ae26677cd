"""Laws of the mirror: a tracker has what the log says, once, and can do no harm."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.cli import main
from harness.cli.observers import Mirror
from harness.records import run_folder
from harness.records.log import Log
from harness.report.run import mirror, picture, trackers
from harness.system.files import atomic_json
from tests.support.wandb_file import records

ROOT = Path(__file__).resolve().parents[2]
WANDB = SimpleNamespace(name="wandb", project="mirror-test", entity=None)
TENSORBOARD = SimpleNamespace(name="tensorboard")
STARTED = {
    "event": "started",
    "run_id": "abc123",
    "workload": "gpt2",
    "scale": "mini",
    "variant": None,
    "submission": "lion",
    "seed": 0,
    "trial": None,
    "study": 0,
    "hp": {"lr": 3e-4, "betas": [0.9, 0.99]},
    "goal": {"loss": {"at_most": 3.2}},
    "budget": {"steps": 200, "reference_seconds": 10.0},
    "engine": {"device": "cpu"},
    "config": {"seed": 0, "workload": {"name": "gpt2"}},
    "chain": "00",
}
ENDED = {"event": "ended", "outcome": "reached", "step": 160}
ENDED["result"] = {"time": 6.0, "best": {"loss": 3.1}}


def evaluation(step: int, loss: float, seconds: float | None = None) -> dict:
    return {
        "event": "evaluation",
        "step": step,
        "reference_seconds": step / 20 if seconds is None else seconds,
        "metrics": {"loss": loss, "bits_per_byte": loss / 2},
        "train_loss": loss - 0.1,
        "goal": loss <= 3.2,
        "counts": {"forward_backward": step},
    }


EVALUATIONS = [evaluation(40 * i, loss) for i, loss in enumerate([5.0, 4.0, 3.5, 3.1, 3.15])]


def write(folder: Path, rows: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.jsonl", "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    if rows[-1]["event"] == "ended":
        (folder / "run.json").write_text("{}")


def offline(folder: Path) -> list:
    """Every record of every offline file of a run."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    return [record for file in files for record in records(file)]


def history(folder: Path) -> list[dict]:
    """The rows that an offline W&B run holds."""
    rows = [r.history for r in offline(folder) if r.WhichOneof("record_type") == "history"]
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
        for row in rows
    ]


def start_mirror(folder: Path, parent: int, environment: dict | None = None) -> subprocess.Popen:
    command = [sys.executable, "-m", "harness.report.run.mirror", str(folder), "--tracker", "wandb"]
    command += ["--project", "mirror-test", "--follow", str(parent)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )


def wait_for(happened) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory) -> Path:
    """A finished run, mirrored into W&B."""
    folder = tmp_path_factory.mktemp("runs") / "gpt2" / "lion" / "abc123"
    write(folder, [STARTED, *EVALUATIONS, ENDED])
    picture.draw(EVALUATIONS, STARTED["goal"], None, folder / "curve.png", "gpt2.mini / lion")
    assert mirror.sync([folder.parents[1]], WANDB).updated == 1
    return folder


def test_wandb_has_every_evaluation_against_reference_seconds(mirrored):
    *rows, last = history(mirrored)
    assert last["curve/_type"] == "image-file"
    assert [row["step"] for row in rows] == [0, 40, 80, 120, 160]
    for row, truth in zip(rows, EVALUATIONS, strict=True):
        assert row["reference_seconds"] == truth["reference_seconds"]
        assert row["eval/loss"] == truth["metrics"]["loss"]
        assert row["train/loss"] == pytest.approx(truth["train_loss"])
        assert row["counts/forward_backward"] == truth["step"]


def test_wandb_knows_axes_config_and_summary(mirrored):
    kinds: dict[str, list] = {}
    for record in offline(mirrored):
        kind = record.WhichOneof("record_type")
        kinds.setdefault(kind, []).append(getattr(record, kind))
    run = kinds["run"][0]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (run.run_id, run.run_group, run.job_type) == ("abc123", "gpt2.mini/lion", "trial")
    assert set(run.tags) == {"gpt2", "mini", "cpu"}
    assert config["hp"] == STARTED["hp"]
    assert config["config"] == STARTED["config"]
    assert "chain" not in config

    metrics = {metric.glob_name or metric.name: metric for metric in kinds["metric"]}
    assert metrics["eval/*"].step_metric == "reference_seconds"
    assert metrics["eval/*"].summary.min
    assert metrics["train/*"].step_metric == "step"

    summary = {}
    for update in kinds["summary"]:
        for item in update.update:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    assert summary["eval/loss"] == {"min": 3.1}
    assert (summary["outcome"], summary["time_to_goal"]) == ("reached", 6.0)
    assert summary["best"] == {"loss": 3.1}
    assert kinds["exit"][-1].exit_code == 0


def test_syncing_again_adds_nothing(mirrored):
    before = sorted(path.name for path in mirrored.glob("wandb/*"))
    assert mirror.sync([mirrored], WANDB).updated == 0
    assert sorted(path.name for path in mirrored.glob("wandb/*")) == before
    assert len(history(mirrored)) == len(EVALUATIONS) + 1  # and the picture
    assert not (mirrored / "mirror.log").exists()


def test_a_key_makes_an_offline_run_be_sent_again(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert trackers.WandB.place(WANDB) == "offline:/mirror-test"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert trackers.WandB.place(WANDB) == "online:/mirror-test"


def test_a_mirror_follows_until_the_parent_dies_and_goes_on_after_a_resume(tmp_path):
    folder = tmp_path / "run"
    write(folder, [STARTED, *EVALUATIONS[:2]])
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    follower = start_mirror(folder, parent.pid)
    wait_for(lambda: any(folder.glob("wandb/offline-run-*/*.wandb")))
    write(folder, EVALUATIONS[2:3])
    with open(folder / "log.jsonl", "a") as file:
        file.write('{"event": "evalu')  # the parent dies while it writes
    parent.communicate(b"\n")
    follower.communicate(timeout=20)
    assert follower.returncode == 0
    assert [row["step"] for row in history(folder)] == [0, 40, 80]

    whole = (folder / "log.jsonl").read_text().rpartition("\n")[0] + "\n"
    (folder / "log.jsonl").write_text(whole)
    again = [evaluation(80, 3.5, 6.0), evaluation(120, 3.1, 8.0), evaluation(160, 3.15, 10.0)]
    write(folder, [{"event": "resumed", "step": 40}, *again, ENDED])
    assert mirror.sync([folder], WANDB).updated == 1
    rows = history(folder)
    assert [row["step"] for row in rows] == [0, 40, 80, 120, 160]
    assert [row["_step"] for row in rows] == [0, 1, 2, 3, 4]


def test_a_killed_mirror_loses_and_doubles_nothing(tmp_path):
    folder = tmp_path / "run"
    write(folder, [STARTED, *EVALUATIONS[:3]])
    follower = start_mirror(folder, os.getpid())
    wait_for(lambda: any(folder.glob("wandb/offline-run-*/*.wandb")))
    follower.kill()
    follower.communicate()
    write(folder, [*EVALUATIONS[3:], ENDED])
    assert mirror.sync([folder], WANDB).updated == 1
    assert [row["step"] for row in history(folder)] == [0, 40, 80, 120, 160]


def test_an_interrupted_run_is_mirrored_as_it_counts(tmp_path):
    folder = tmp_path / "run"
    rows = [STARTED, *EVALUATIONS[:3], {"event": "ended", "outcome": "interrupted", "step": 80}]
    rows += [{"event": "resumed", "step": 40}, evaluation(80, 3.5, 6.0), ENDED]
    write(folder, rows)
    assert mirror.sync([folder], WANDB).updated == 1
    assert [row["reference_seconds"] for row in history(folder)] == [0.0, 2.0, 6.0]


@pytest.mark.parametrize("harm", ["unwritable", "no home", "broken package"])
def test_a_broken_tracker_is_one_warning_and_exit_status_0(tmp_path, harm):
    folder = tmp_path / "run"
    write(folder, [STARTED, *EVALUATIONS, ENDED])
    environment = os.environ | {"WANDB_MODE": "offline"}
    if harm == "unwritable":
        (folder / "wandb").write_text("a file where the folder should be")
    elif harm == "no home":
        environment.pop("HOME")
    else:
        (tmp_path / "wandb.py").write_text("raise RuntimeError('broken wheel')")
        environment["PYTHONPATH"] = str(tmp_path)
    follower = start_mirror(folder, os.getpid(), environment)
    _, said = follower.communicate(timeout=30)
    assert follower.returncode == 0
    log = folder / "mirror.log"
    if harm == "no home":  # wandb does without: nothing to warn of
        assert not log.exists(), said
        assert len(history(folder)) == len(EVALUATIONS)
    else:
        assert len(log.read_text().splitlines()) == 1
        assert "harness sync" in log.read_text()


def test_an_interrupted_and_resumed_run_has_one_whole_offline_folder(tmp_path):
    folder = tmp_path / "run"
    stopped = {"event": "ended", "outcome": "interrupted", "step": 80}
    write(folder, [STARTED, *EVALUATIONS[:3], stopped])
    named = SimpleNamespace(**vars(WANDB), settings="lr=0.0003")
    assert mirror.sync([folder], named).updated == 1
    write(folder, [{"event": "resumed", "step": 80}, *EVALUATIONS[3:], ENDED])
    assert mirror.sync([folder], WANDB).updated == 1
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1
    assert [row["step"] for row in history(folder)] == [0, 40, 80, 120, 160]
    run = next(r.run for r in offline(folder) if r.WhichOneof("record_type") == "run")
    assert run.display_name == "lion lr=0.0003 seed 0", "a later sync keeps what a sweep changed"


def test_the_summary_of_a_stream_is_its_last_and_its_worst_value(tmp_path):
    folder = tmp_path / "run"
    goal = {"accuracy": {"at_least": 0.8}, "forgetting": {"at_most": 0.2}}
    rows = []
    for i, accuracy in enumerate([0.1, 1.0, 0.6, 0.7]):
        metrics = {"accuracy": accuracy, "forgetting": 1 - accuracy}
        rows.append(evaluation(40 * i, 1.0) | {"metrics": metrics})
    write(folder, [STARTED | {"goal": goal, "config": {"stream": {}}}, *rows, ENDED])
    assert mirror.sync([folder], WANDB).updated == 1
    updates = [r.summary for r in offline(folder) if r.WhichOneof("record_type") == "summary"]
    summary = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for update in updates
        for item in update.update
    }
    assert summary["eval/accuracy"] == {"last": 0.7, "min": 0.1}
    assert summary["eval/forgetting"] == pytest.approx({"last": 0.3, "max": 0.9})


def test_a_sync_that_fails_says_so_and_has_an_exit_status(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    write(folder, [STARTED, *EVALUATIONS, ENDED])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mirror.sync([folder], WANDB).failed == [folder]
    assert main.main(["sync", str(folder)]) == 1
    assert "1 failed" in capsys.readouterr().out
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main.main(["sync", str(folder)]) == 0


def test_a_sync_names_a_damaged_log_and_does_not_send_it(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    log = folder / "log.jsonl"
    written = Log(log)
    for row in (STARTED, *EVALUATIONS, ENDED):
        written.append({key: value for key, value in row.items() if key != "chain"})
    stated = {"schema": 1, "run_id": "x", "outcome": "reached", "chain": written.chain}
    atomic_json(folder / "run.json", stated)
    assert run_folder.log_problem(folder) is None
    log.write_text(log.read_text().replace('"event": "started"', '"event": "startled"'))
    assert main.main(["sync", str(folder)]) == 1
    assert "not sent: " in (out := capsys.readouterr().out)
    assert "log.jsonl is damaged (line 1" in out
    assert not list(folder.glob("mirror.*"))


def test_a_failure_of_the_tracker_is_said_at_the_end_of_a_race(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder, notes = tmp_path / "run", []
    folder.mkdir()
    (folder / "mirror.log").write_text("wandb: an older failure\n")
    observer = Mirror({"name": "wandb", "project": "p", "entity": None}, notes.append)
    observer.started(SimpleNamespace(folder=folder))
    write(folder, [STARTED, *EVALUATIONS, ENDED])
    observer.close()
    assert len(notes) == 1
    assert "WANDB_MODE=disabled" in notes[0]
    assert "harness sync" in notes[0]


def test_tensorboard_has_every_evaluation(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    write(folder, [STARTED, *EVALUATIONS[:3]])
    assert mirror.sync([folder], TENSORBOARD).updated == 1
    write(folder, [*EVALUATIONS[3:], ENDED])
    picture.draw(EVALUATIONS, STARTED["goal"], None, folder / "curve.png", "gpt2.mini / lion")
    assert mirror.sync([folder], TENSORBOARD).updated == 1
    assert mirror.sync([folder], TENSORBOARD).updated == 0
    rows = []
    for path in sorted(
        (folder / "tensorboard").glob("events*"), key=lambda p: p.stat().st_mtime_ns
    ):
        events = EventAccumulator(str(path)).Reload()
        rows += [(e.step, e.wall_time, e.value) for e in events.Scalars("eval/loss")]
    truth = [(e["step"], e["reference_seconds"], e["metrics"]["loss"]) for e in EVALUATIONS]
    assert rows == [pytest.approx(row) for row in truth]
    assert [e.value for e in events.Scalars("time_to_goal")] == [6.0]
    assert events.Images("curve")[0].encoded_image_string == (folder / "curve.png").read_bytes()


def test_spawn_starts_nothing_without_a_tracker(tmp_path):
    assert mirror.spawn(tmp_path, SimpleNamespace(name="none")) is None


def test_nothing_heavy_is_imported():
    code = (
        "import sys, harness.report.run.mirror, harness.report.run.live, "
        "harness.report.run.picture; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"torch", "wandb", "tensorboard", "matplotlib", "rich", "numpy", "pandas"}
    assert not heavy & set(done.stdout.split())
