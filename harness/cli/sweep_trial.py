"""One trial of a sweep, in whatever process and on whatever machine a launcher starts it.

The trial writes how far it is into a file of the sweep's folder, which the command that started
the sweep reads, and stops when that command has written `stop` there.
"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from harness.cli import config
from harness.cli.observers import Mirror, Picture
from harness.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, NoScale, UserError
from harness.race.observer import Observer, Several
from harness.race.trial import Trial
from harness.system.files import read_json
from harness.system.terminal import say

STOP = "stop"
SECONDS = 1.0  # between two looks at the sweep's folder
# True in the process of the command itself, where the launcher `basic` runs the trials.
in_command = False


class Progress(Observer):
    """An observer that writes the trial's progress where the command reads it."""

    def __init__(self, folder: Path, trial: Trial):
        self.folder, self.trial = folder, trial
        self.state = {"step": 0, "total": trial.horizon, "metrics": {}, "notes": []}
        self.written = 0.0
        self._write()

    def row(self, row: dict) -> None:
        self.state |= {"step": row["step"], "metrics": row["metrics"]}
        self._write()

    def tick(self, step: int) -> None:
        if time.monotonic() - self.written < SECONDS:
            return
        self.state["step"] = step
        self._write()
        if (self.folder / STOP).exists():
            os.kill(os.getpid(), signal.SIGTERM)

    def note(self, text: str) -> None:
        self.state["notes"].append(text)
        self._write()

    def end(self, result: dict) -> None:
        """Write how the trial ended."""
        self.state["ended"] = result
        self._write()

    def _write(self) -> None:
        self.written = time.monotonic()
        path = status_file(self.folder, self.trial.run_id)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self.state))
            temporary.replace(path)
        # the record is elsewhere; a full disk ends the trial there, by name
        except OSError:
            return


def status_file(folder: Path, run_id: str) -> Path:
    """Return the file that tells a trial's progress."""
    return folder / "trials" / f"{run_id}.json"


def status(folder: Path, run_id: str) -> dict | None:
    """Return what a trial has written of its progress, or None."""
    try:
        return read_json(status_file(folder, run_id))
    except (OSError, UserError):
        return None


def job(cfg) -> dict:
    """Run one trial; return how it ended: `exit`, and its record or an `error`."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf.errors import OmegaConfBaseException

    folder = Path(HydraConfig.get().sweep.dir)
    _leave_signals_to_the_command()
    if (folder / STOP).exists():
        return {"exit": EXIT_INTERRUPTED, "outcome": "not started"}
    try:
        return _race(config.plain(cfg), folder)
    except (UserError, OmegaConfBaseException) as error:
        problem = error if isinstance(error, UserError) else config.explain(error)
        left_out = isinstance(error, NoScale)
        return {"exit": EXIT_OK if left_out else EXIT_USAGE, "error": str(problem)}
    # a fault of ours ends its own trial, not the others of the sweep
    except Exception as error:
        traceback.print_exc()
        return {"exit": EXIT_FAILED, "error": f"{type(error).__name__}: {error}"}


def _race(settings: dict, folder: Path) -> dict:
    from harness.race import plan
    from harness.race.referee import race

    trial = plan.make(settings)
    progress = Progress(folder, trial)
    # A sweep does not wait for its trackers; a failure by then is a note.
    tracker = Mirror(settings["tracker"], progress.note, _changes(), patience=0.5)
    try:
        outcome = race(trial, Several([progress, Picture(progress.note), tracker]))
        tracker.close()
        result = outcome.record | {"exit": outcome.exit_code}
        if in_command and outcome.outcome == "interrupted":
            stop(folder)
    except Exception as error:
        progress.end({"outcome": "failed", "reason": str(error)})
        raise
    # the wait for other processes is the command's: it reads their records
    progress.end({key: result.get(key) for key in ("outcome", "reason", "earlier")})
    return result


def _changes() -> str:
    """Return the settings of this trial that a command line changes, for its name in a tracker."""
    from hydra.core.hydra_config import HydraConfig

    typed = ("submission.", "workload.", "trial=", "budget=", "variant=", "scale=")
    words = [word for word in HydraConfig.get().overrides.task if word.startswith(typed)]
    return " ".join(word.removeprefix("submission.") for word in words)


def stop(folder: Path) -> None:
    """Ask the sweep's trials to stop, and the others not to start."""
    try:
        (folder / STOP).touch()
    except OSError as error:
        say(f"harness: cannot ask the trials to stop: {error}", sys.stderr)


def _leave_signals_to_the_command() -> None:
    """Ignore Ctrl-C in a worker: the command gets it too, and asks through the folder."""
    if in_command:
        return
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    # not the main thread of a worker
    except ValueError:
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
