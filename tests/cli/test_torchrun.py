"""Laws of races that torchrun starts: on one machine, and on two that are this one twice."""

import json
import socket
import subprocess
import sys

import pytest

from harness.cli import main
from harness.errors import UserError
from harness.system import torchrun
from harness.system.torchrun import Place
from tests.support.racing import SMALL, command, environment

PLACE = Place(0, 4, 0, 4, "127.0.0.1", 1234, 0)
WORDS = {
    "TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "7",
}  # fmt: skip


def test_without_torchrun_there_is_no_place(monkeypatch):
    for name in WORDS:
        monkeypatch.delenv(name, raising=False)
    assert torchrun.here() is None


def test_a_place_is_read_from_the_variables_of_torchrun(monkeypatch):
    for name, value in WORDS.items():
        monkeypatch.setenv(name, value)
    place = torchrun.here()
    assert place == Place(3, 4, 1, 2, "h", 7, 0)
    assert not place.alone
    meeting = place.machines("run")
    assert (meeting["first"], meeting["local"], meeting["key"]) == (2, 2, "harness/run/0")
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(UserError, match="MASTER_PORT"):
        torchrun.here()


def test_the_number_of_processes_is_that_of_torchrun():
    assert torchrun.with_processes(["seed=1"], PLACE) == ["seed=1", "engine.processes=4"]
    assert torchrun.with_processes(["engine.processes=4"], PLACE) == ["engine.processes=4"]
    with pytest.raises(UserError, match="torchrun has started 4 processes"):
        torchrun.with_processes(["engine.processes=2"], PLACE)
    with pytest.raises(UserError, match="several trials"):
        torchrun.with_processes(["-m", "seed=1,2"], PLACE)
    assert PLACE.machines("run") is None


def test_further_processes_of_a_machine_end_at_once(monkeypatch):
    for name, value in WORDS.items():
        monkeypatch.setenv(name, value)
    assert main.main([*SMALL, "submission=adamw"]) == 0


def torchrun_of(options, results):
    words = ["-m", "torch.distributed.run", *options, *command()[1:], *SMALL]
    words += ["submission=adamw", "tuned=false", f"results={results}"]
    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment(GLOO_SOCKET_IFNAME="lo"),
    )  # fmt: skip


def record_of(results):
    (path,) = results.glob("runs/*/*/*/run.json")
    return json.loads(path.read_text())


def loss_alone(tmp_path):
    words = [*SMALL, "submission=adamw", "tuned=false", f"results={tmp_path / 'alone'}"]
    subprocess.run(command(*words), env=environment(), capture_output=True)
    return record_of(tmp_path / "alone")["final"]["loss"]


@pytest.mark.slow
def test_torchrun_races_on_one_machine(tmp_path):
    said = torchrun_of(["--nproc-per-node", "2"], tmp_path / "two").communicate()[0]
    record = record_of(tmp_path / "two")
    assert record["outcome"] == "out_of_budget", said
    assert record["processes"] == 2
    assert record["final"]["loss"] == pytest.approx(loss_alone(tmp_path), rel=1e-4)


@pytest.mark.slow
def test_torchrun_races_on_two_machines(tmp_path):
    """Both are this one, with results folders of their own, as without a shared file system."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1"]
    machines = [
        torchrun_of(
            [*common, "--master-port", str(port), "--node-rank", str(rank)], tmp_path / str(rank)
        )
        for rank in (0, 1)
    ]
    said = [machine.communicate(timeout=150)[0] for machine in machines]
    record = record_of(tmp_path / "0")
    assert record["outcome"] == "out_of_budget", said
    assert record["processes"] == 2
    assert record["final"]["loss"] == pytest.approx(loss_alone(tmp_path), rel=1e-4)
    assert not list((tmp_path / "1").glob("runs/*/*/*/run.json"))
