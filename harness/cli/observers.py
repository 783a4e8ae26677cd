"""The observers that a race from the command line is composed of."""

import subprocess
from types import SimpleNamespace

from harness.errors import UserError
from harness.race.observer import Observer
from harness.race.trial import Trial
from harness.report.run import mirror, picture
from harness.report.run.live import Live


class LiveLine(Observer):
    """Show one live line on a terminal, plain lines elsewhere."""

    def __init__(self, trial: Trial):
        self._line = Live(trial.horizon, trial.label, trial.definition.block["goal"])

    def row(self, row: dict) -> None:
        self._line.update(row)

    def tick(self, step: int) -> None:
        self._line.tick(step)

    def note(self, text: str) -> None:
        self._line.note(text)

    def close(self) -> None:
        self._line.close()


class Picture(Observer):
    """Draw the curve when the trial has ended. A record without its picture is complete."""

    def __init__(self, note):
        """`note(text)` prints a line for the user."""
        self._note = note

    def ended(self, trial: Trial, rows: list[dict], result: dict) -> None:
        try:
            picture.draw_trial(trial, rows, result)
        except (UserError, OSError) as error:
            self._note(f"no picture of the curve: {error}")


class Mirror(Observer):
    """Start the process that mirrors the log into a tracker; at the end, say if it has failed."""

    def __init__(self, tracker: dict, note, settings: str = "", patience: float = 10.0):
        """Take what the mirror needs.

        Args:
            tracker: the configuration of conf/tracker/.
            note: `note(text)` prints a line for the user.
            settings: what a sweep changes, for the run's name in the tracker.
            patience: seconds to wait for the mirror after the race.
        """
        self._tracker = SimpleNamespace(**tracker, settings=settings)
        self._note, self._patience = note, patience
        self._folder, self._before = None, 0
        self._process: subprocess.Popen | None = None

    def started(self, trial: Trial) -> list[int]:
        self._folder = trial.folder
        self._before = mirror.log_size(trial.folder)
        self._process = mirror.spawn(trial.folder, self._tracker)
        return [self._process.pid] if self._process else []

    def close(self) -> None:
        if self._folder is None or self._tracker.name == "none":
            return
        late = False
        if self._process:
            try:
                self._process.wait(self._patience)
            except subprocess.TimeoutExpired:
                late = True
        if line := mirror.failure(self._folder, self._before):
            self._note(f"the tracker failed: {line}")
        elif late and self._patience > 1:
            log = self._folder / "mirror.log"
            self._note(f"{self._tracker.name} is still sending; a failure would be in {log}")
