"""A campaign that is killed at any moment loses nothing and races nothing twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from harness.catalog.discover import ROOT

PLAN = "{submissions: [finetune, er], workloads: [stream_scole], studies: 1, trials: 2, seeds: 1}"
KILLS = 20
JOBS = 6


def start(plan, results, before=None) -> subprocess.Popen:
    """Start the campaign as a process group of its own; `before` is called in it first."""
    words = ["campaign", str(plan), "--results", str(results), "--jobs", "2"]
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *words],
        cwd=ROOT,
        env=os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=before,
    )


def ignore_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.slow
def test_a_campaign_in_the_background_stops_at_once_when_it_is_told_to(tmp_path):
    """A shell without job control starts what is in its background with SIGINT ignored."""
    plan, results = tmp_path / "plan.yaml", tmp_path / "r"
    plan.write_text("{submissions: [adamw], workloads: [gpt2], studies: 1, trials: 1, seeds: 0}")
    process = start(plan, results, ignore_interrupts)
    while not any('"step"' in log.read_text() for log in results.rglob("log.jsonl")):
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75  # the trial alone takes longer
    assert list(results.rglob("*.safetensors"))


@pytest.mark.slow
def test_a_campaign_killed_twenty_times_loses_nothing_and_races_nothing_twice(tmp_path):
    plan, results, draw = tmp_path / "plan.yaml", tmp_path / "r", random.Random(7)
    plan.write_text(PLAN)
    killed = 0
    while killed < KILLS:
        process = start(plan, results)
        try:
            process.wait(draw.uniform(1.0, 12.0))
        except subprocess.TimeoutExpired:
            # now the command alone, now all that it started
            hit = process.pid if draw.random() < 0.5 else -process.pid
            os.kill(hit, signal.SIGKILL) if hit > 0 else os.killpg(-hit, signal.SIGKILL)
            process.wait()
            killed += 1
            continue
        assert process.returncode == 0
        break
    finished = start(plan, results)
    assert finished.wait(600) == 0
    rows = [
        json.loads(line)
        for line in (results / "board" / "stream_scole.mini.jsonl").read_text().splitlines()
    ]
    runs = [row for row in rows if "run_id" in row]
    assert len(runs) == JOBS
    assert set(Counter(run["run_id"] for run in runs).values()) == {1}
    folders = list((results / "runs").glob("*/*/*/log.jsonl"))
    assert len(folders) == JOBS
    for log in folders:
        events = [json.loads(line) for line in log.read_text().splitlines()]
        steps = [row["step"] for row in events if row["event"] == "evaluation"]
        # an evaluation that was logged is not made again
        assert len(steps) == len(set(steps)), log
        assert [row["event"] for row in events].count("ended") == 1
    assert killed > 0
    time.sleep(1.0)
    left = subprocess.run(["pgrep", "-f", str(results)], capture_output=True, text=True)
    assert not left.stdout.split()
