"""The observers that a race from the command line is composed of."""

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
    """Start the process that mirrors the log into a tracker."""

    def __init__(self, tracker: dict):
        """`tracker` is the configuration of conf/tracker/."""
        self._tracker = SimpleNamespace(**tracker)

    def started(self, trial: Trial) -> list[int]:
        process = mirror.spawn(trial.folder, self._tracker)
        return [process.pid] if process else []
