"""Laws against cheating: each known exploit gets what the table says, its honest twin passes.

The table in docs/rules.md says what each exploit gets.
"""

import os
import shutil
import socket
import sys
from functools import cache
from pathlib import Path

import pytest

from harness.catalog.reading import literals
from harness.errors import UserError
from harness.race import limits, runner_child
from harness.system import landlock, policy
from harness.system.terminal import printable
from tests.support import cheating
from tests.support.cheating import SHARE, planned, run, table
from tests.support.racing import at_work_in

# CPU seconds, as the files have it.
BURNED = {
    "clocks": 1.2, "workers": 0.6, "hidden_work": 0.6, "credit": 1.2, "claiming": 0.6,
    "predicting": 1.2, "arriving": 1.2,
}  # fmt: skip
# Instead of SHARE: what can be the harness's own is believed.
LESS = {"clocks meter": 0.4}
# CPU seconds that lives before the last have burned.
LIVES = {"crash": 2.5, "loop": 4 * 0.6, "early": 2.5, "again": 2.5}
# How often they crash, if not once.
CRASHES = {"loop": 4, "again": 2}
LEVELS = ("process", "strict")
TABLE = table()
QUICK = {
    "process": (
        "clocks still", "reading open", "forging outcome", "shared_memory shrink",
        "patched_torch slow",
    ),
    "strict": (
        "reading validation", "network native", "signalling native",
        "workers unreaped",
    ),
}  # fmt: skip
ENDS = ("invalid", "diverged", "interrupted", "oom", "disk_full", "timeout", "failed")
# Outcomes that end a trial for good: the same command gives the same answer.
FINAL = ("invalid", "diverged")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux")


def needs(level):
    if level == "strict" and not landlock.version():
        pytest.skip("this kernel has no Landlock")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Honest descent on the workload of a file."""

    @cache
    def on(name, file, level):
        return run(planned(file, "honest", level, tmp_path_factory.mktemp("n")))

    def twin(file, level):
        name, _ = cheating.place(file, "honest")
        return on(name, "workers" if name == cheating.SENSING[0] else file, level)

    return twin


def cases():
    for exploit in TABLE:
        for level in LEVELS:
            name = f"{exploit.file} {exploit.way}"
            slow = () if name in QUICK[level] else (pytest.mark.slow,)
            yield pytest.param(exploit, level, marks=slow, id=f"{name} {level}")


@pytest.mark.parametrize("exploit, level", list(cases()))
def test_an_exploit_gets_what_the_table_says(exploit, level, tmp_path, plain, monkeypatch):
    needs(level)
    expected = getattr(exploit, level).split(":")[0]
    if expected == "refused":
        with pytest.raises(UserError, match="own predict"):
            planned(exploit.file, exploit.way, level, tmp_path)
        return
    special = {"network": with_a_server, "carrying": twice, "crashing": after_a_crash}
    limited(monkeypatch, exploit.way)
    seen = special.get(exploit.file, once)(exploit, level, tmp_path)
    outcome = seen.outcome
    assert at_work_in(tmp_path) == []
    reason = outcome.record.get("reason") or ""
    assert printable(reason) == reason
    if expected in ENDS:
        assert outcome.outcome == expected, outcome.record.get("reason")
        assert outcome.exit_code == {"invalid": 3, "interrupted": 75}.get(expected, 1)
        if expected in FINAL:
            assert once(exploit, level, tmp_path).outcome.outcome == expected
        return
    assert outcome.outcome == "out_of_budget", outcome.record.get("reason")
    assert outcome.record["time"] is None
    if expected == "prevented":
        assert "GOT" not in seen.said
    if expected == "not prevented":
        assert "GOT" in seen.said
    if expected == "charged" and exploit.file in BURNED:
        share = LESS.get(f"{exploit.file} {exploit.way}", SHARE)
        assert seen.beyond(plain(exploit.file, level)) > share * BURNED[exploit.file]
    if expected == "charged" and exploit.file == "patched_torch":  # 0.25 to 0.35 of the passes
        assert outcome.record["end"]["hidden"] > 0.1 * outcome.record["end"]["counted"]
    if exploit.file == "patched_loss":
        errors = [row["metrics"]["relative_error"] for row in log_of(outcome)]
        assert errors == pytest.approx([1.0] * len(errors))
    if exploit.file == "pruning":
        assert outcome.record["best"]
    if expected == "measured":
        measured(exploit.way, log_of(outcome))
    if exploit.way == "order":
        # Chance, of ten classes.
        assert max(row["metrics"]["accuracy"] for row in log_of(outcome)) < 0.3


def log_of(outcome):
    return cheating.run_folder.evaluations(cheating.rows(outcome.folder / "log.jsonl"))


def measured(way, log):
    """Check that the rows have what the referee measured, and not what the runner reported."""
    if way in ("look", "hook", "tiny"):
        assert [row["metrics"]["epsilon"] for row in log[1:]] == [1e6] * (len(log) - 1)
    if way == "readout":
        assert log[-1]["metrics"]["accuracy"] > 0.5 > 0.2 > log[-1]["metrics"]["robust_accuracy"]
    if way == "all":
        assert [row["metrics"]["labels"] for row in log] == [50, *[4000] * (len(log) - 1)]
        assert log[-1]["counts"]["label"] == 3950
    if way == "mixed":
        # Each of four passes a step on mixed examples counts an exchange, and none is declared.
        assert log[-1]["counts"]["exchange"] >= 4 * log[-1]["step"]
    if way == "trainable":
        # From the second checkpoint on. The head and rows of unseen tokens do not count.
        assert log[1]["metrics"]["trainable"] == 0.0
        assert min(row["metrics"]["trainable"] for row in log[2:]) > 0.3
    if way == "memory":
        assert all(row["metrics"]["training_memory"] > 1e6 for row in log)
    if way in ("state", "packed"):
        # The first checkpoint comes after the first evaluation of what was trained.
        assert [row["state_bytes"] for row in log[2:]] == [400_000] * (len(log) - 2)
    if way == "stowed":  # less what a mask may take
        assert all(300_000 < row["state_bytes"] <= 400_000 for row in log[2:])


def limited(monkeypatch, way):
    """Small limits, that a bomb need not be a large one."""
    if way == "memory":
        monkeypatch.setattr(policy, "_free_memory", lambda: 2_500_000_000)
    free = shutil.disk_usage("/").free
    if way == "disk":
        monkeypatch.setattr(policy, "FILE_SHARE", 2e8 / free)
    if way == "shared":
        monkeypatch.setattr(runner_child, "free_memory", lambda: 1_500_000_000)
    if way in ("log", "holes", "progress", "beyond"):
        monkeypatch.setattr(limits, "DISK_SHARE", 1e8 / free)
        monkeypatch.setattr(limits, "LOG_BYTES", 1e6)


def once(exploit, level, tmp_path):
    return run(planned(exploit.file, exploit.way, level, tmp_path))


def with_a_server(exploit, level, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        seen = run(planned(exploit.file, exploit.way, level, tmp_path, port=port))
        server.settimeout(0.0)
        if "GOT" not in seen.said:
            with pytest.raises(BlockingIOError):
                server.accept()
    return seen


def twice(exploit, level, tmp_path):
    """Two trials; for what lies in a trial's own folder, an attempt again."""
    notes = [
        Path(f"{place}/harness-cheat-{os.getuid()}{end}")
        for place in ("/tmp", "/dev/shm")
        for end in ("", "-open")
    ]
    try:
        first = run(planned(exploit.file, exploit.way, level, tmp_path))
        if exploit.way == "checkpoint":
            (first.outcome.folder / "run.json").unlink()
            (first.outcome.folder / "log.jsonl").unlink()
            for path in (first.outcome.folder / "checkpoint").glob("step-*"):
                path.unlink()
            return run(planned(exploit.file, exploit.way, level, tmp_path))
        return run(planned(exploit.file, exploit.way, level, tmp_path, seed=1))
    finally:
        for note in notes:
            cheating.forget(note)


def after_a_crash(exploit, level, tmp_path):
    """Start the trial again until it ends: it pays for the lives before."""
    trial = planned(exploit.file, exploit.way, level, tmp_path)
    crashes = CRASHES.get(exploit.way, 1)
    assert [run(trial).outcome.outcome for _ in range(crashes)] == ["failed"] * crashes
    seen = run(trial)
    assert "GOT" not in seen.said
    assert seen.outcome.record["lost_steps"]
    if exploit.way in LIVES:
        # A lost step is one of the trial's mean.
        charged = seen.outcome.record["lost_steps"] / seen.outcome.record["step"] * seen.reference
        if exploit.way == "again":
            charged = seen.seconds
        assert charged > 0.4 * LIVES[exploit.way]
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("file", sorted({e.file for e in TABLE}))
def test_the_honest_twin_passes(file, level, tmp_path):
    needs(level)
    seen = run(planned(file, "honest", level, tmp_path))
    assert seen.outcome.outcome == ("reached" if file == "pruning" else "out_of_budget")
    # Nothing, but for what the reference step is mistimed by on a machine in use.
    assert seen.outcome.record["end"]["hidden"] < 0.05 * seen.outcome.record["end"]["counted"]
    assert "GOT" not in seen.said


def test_every_cheat_and_every_way_is_in_the_rules():
    ways = {
        (path.stem, way)
        for path in cheating.CHEATS.glob("*.py")
        for way in literals(path, ["SPACE"])["SPACE"]["way"]["choice"]
        if way != "honest"
    }
    assert ways == {(e.file, e.way) for e in TABLE}
    assert {name for names in QUICK.values() for name in names} <= {f"{f} {w}" for f, w in ways}
