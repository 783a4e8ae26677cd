"""Mirror a run's log into Weights & Biases or TensorBoard, in a process of its own.

A tracker only reads `RUN/log.jsonl`. So it is never on the clock, cannot harm a run, and can be
brought up to date at any later time:

    python -m harness.report.run.mirror RUN --tracker wandb --project NAME --follow PARENT_PID

Every failure of a tracker is one line in `RUN/mirror.log`, and exit status 0. The cursor
`RUN/mirror.<tracker>.json` has the place that the log is mirrored to, and how far it is mirrored.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.records import run_folder
from harness.records.run_folder import valid_rows
from harness.report.run.trackers import TRACKERS
from harness.system.command_line import harness
from harness.system.files import atomic_json, locked, read_json

POLL_SECONDS = 0.5
PICTURE_SECONDS = 5  # after the `ended` row: the longest wait for run.json, and with it curve.png


def spawn(run_dir: Path, config) -> subprocess.Popen | None:
    """Start the mirror that follows a run of this process; None for no tracker, or no process.

    Args:
        run_dir: the run's folder; log.jsonl may not exist yet.
        config: the tracker's config with `name`, for W&B `project` and `entity`, in a sweep
            `settings`, which become part of the run's name.
    """
    if config.name == "none":
        return None
    command = [sys.executable, "-m", "harness.report.run.mirror", str(run_dir)]
    command += ["--tracker", config.name, "--follow", str(os.getpid())]
    for key in ("project", "entity", "settings"):
        if getattr(config, key, None):
            command += [f"--{key}", str(getattr(config, key))]
    path = [str(Path(__file__).resolve().parents[3]), os.environ.get("PYTHONPATH", "")]
    # A safe path: a folder named wandb in the working directory is not the package.
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONSAFEPATH": "1"}
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    try:
        # Its own session: Ctrl-C ends the race, and the mirror then sends the rest of the log.
        return subprocess.Popen(command, env=env, start_new_session=True, **quiet)
    except OSError as error:
        _warn(Path(run_dir), config.name, error)
        return None


@dataclass(frozen=True)
class Synced:
    """The result of a sync.

    Attributes:
        updated: how many runs got new rows.
        failed: the folders whose tracker failed.
        damaged: a message for each run whose log is not as it was written; it is not sent.
    """

    updated: int
    failed: list[Path]
    damaged: list[str]


def sync(paths: Iterable[Path | str], config) -> Synced:
    """Bring the tracker up to date with every run at or below `paths`."""
    logs = sorted({log for path in paths for log in Path(path).rglob("log.jsonl")})
    # Only a finished run states what its log ends in.
    finished = [log.parent for log in logs if run_folder.finished(log.parent)]
    problems = {folder: run_folder.log_problem(folder) for folder in finished}
    damaged = {folder: problem for folder, problem in problems.items() if problem}
    sent = {
        log.parent: _safely(log.parent, config, lambda: False)
        for log in logs
        if log.parent not in damaged
    }
    failed = [folder for folder, rows in sent.items() if rows < 0]
    return Synced(sum(rows > 0 for rows in sent.values()), failed, list(damaged.values()))


def failure(folder: Path, since: int) -> str | None:
    """Return the last line that mirror.log has got after its first `since` bytes, or None."""
    try:
        content = (folder / "mirror.log").read_bytes()[since:]
    except OSError:
        return None
    lines = content.decode("utf-8", "replace").splitlines()
    return lines[-1] if lines else None


def log_size(folder: Path) -> int:
    """Return the size of a run's mirror.log in bytes."""
    try:
        return (folder / "mirror.log").stat().st_size
    except OSError:
        return 0


def forward(folder: Path, config, alive: Callable[[], bool]) -> int:
    """Send the tracker the rows of a run's log that it lacks; go on while `alive()` until `ended`.

    A tracker gets every evaluation step once. Training repeats itself bit by bit after a resume,
    so an evaluation that is already mirrored is not sent again. A tracker whose files cannot be
    continued gets the whole log again, in new files that replace the old.

    Returns:
        The number of rows sent, `ended` included.
    """
    kind, log = TRACKERS[config.name], folder / "log.jsonl"
    place, path = kind.place(config), folder / f"mirror.{config.name}.json"
    known = read_json(path) if path.exists() else {}
    settings = getattr(config, "settings", None) or known.get("settings")
    start: dict[str, Any] = {
        "place": place,
        "settings": settings,
        "offset": 0,
        "rows": 0,
        "step": -1,
    }
    same = known.get("place") == place
    cursor: dict[str, Any] = known | {"settings": settings} if same else dict(start)
    tracker, sent, ended, last = None, 0, False, False
    while not (ended or last):
        last = not alive()  # asked first: what the parent wrote before it went is still read
        rows, end = _read(log, cursor["offset"])
        news = any(row["event"] in ("evaluation", "ended") for row in rows)
        if news and tracker is None and cursor["rows"] and kind.anew(config):
            cursor = dict(start)
            rows, end = _read(log, 0)
        for row in valid_rows(rows):
            ended = row["event"] == "ended"
            if not ended and (row["event"] != "evaluation" or row["step"] <= cursor["step"]):
                continue
            if tracker is None:
                tracker = kind(folder, config, cursor["rows"], settings or "")
                tracker.start(_read(log, 0)[0][0])
            if ended:
                _wait(folder / "run.json", alive)
                stated = {key: row[key] for key in ("outcome", "step") if key in row}
                tracker.finish((row.get("result") or {}) | stated)
            else:
                tracker.log(row)
                cursor |= {"rows": cursor["rows"] + 1, "step": row["step"]}
                if kind.durable:
                    atomic_json(path, cursor)
            sent += 1
        cursor["offset"] = end
        if not (ended or last):
            time.sleep(POLL_SECONDS)
    if tracker is not None:
        if not ended:
            tracker.finish({})
        atomic_json(path, cursor)
    return sent


def _read(log: Path, offset: int) -> tuple[list[dict], int]:
    """Return the complete lines of the log from a byte offset on, and where they end."""
    if not log.exists():
        return [], offset
    with open(log, "rb") as file:
        if file.seek(0, os.SEEK_END) < offset:
            raise ValueError(f"{log} is shorter than what was mirrored of it")
        file.seek(offset)
        whole = file.read().rpartition(b"\n")[0]
    lines = whole.split(b"\n") if whole else []
    return [json.loads(line) for line in lines if line], offset + len(whole) + bool(whole)


def _wait(path: Path, alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PICTURE_SECONDS
    while alive() and not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _warn(folder: Path, tracker: str, error: Exception) -> None:
    """Write one line on a tracker's failure into the run's mirror.log and to stderr."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    line = f"{tracker}: {reason}; `{harness('sync', folder)}` tries again\n"
    sys.stderr.write(line)
    with suppress(OSError), open(folder / "mirror.log", "a") as file:
        file.write(line)


def _safely(folder: Path, config, alive: Callable[[], bool]) -> int:
    """Forward a run that no other mirror works on; a failure is a warning, and -1 is returned."""
    try:
        while True:
            with locked(folder / config.name) as alone:
                if alone:
                    return forward(folder, config, alive)
            if not alive():
                raise RuntimeError("another mirror is at work on this run")
            time.sleep(POLL_SECONDS)  # an earlier mirror of a resumed run is still uploading
    except Exception as error:  # whatever a tracker raises, the run goes on
        _warn(folder, config.name, error)
        return -1


def _watch(parent: int) -> Callable[[], bool]:
    """Return whether a process still runs; of our own parent this is known even as a zombie."""
    ours = os.getppid() == parent

    def alive() -> bool:
        if ours:
            return os.getppid() == parent
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    return alive


def main(arguments: list[str] | None = None) -> int:
    """Mirror one run from the command line; the exit status is 0 whatever the tracker does."""
    parser = argparse.ArgumentParser(prog="harness.report.run.mirror", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tracker", choices=sorted(TRACKERS), required=True)
    parser.add_argument("--project", default="harness")
    parser.add_argument("--entity")
    parser.add_argument("--settings", help="what a sweep changes, for the run's name")
    parser.add_argument("--follow", type=int, metavar="PARENT_PID")
    options = parser.parse_args(arguments)
    config = SimpleNamespace(
        name=options.tracker,
        project=options.project,
        entity=options.entity,
        settings=options.settings,
    )
    os.environ.pop("WANDB_SERVICE", None)  # no service that is shared with the process that races
    alive = _watch(options.follow) if options.follow else lambda: False
    if options.follow:
        os.nice(10)
        # A job's end is signalled to all its processes; this one ends after its parent.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    if _safely(options.run, config, alive) < 0:
        os._exit(0)  # no exit handler of a broken tracker may hang
    return 0


if __name__ == "__main__":
    sys.exit(main())
