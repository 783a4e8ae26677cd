"""Observers of a race: what the referee tells them, and the observer that does nothing.

The referee knows neither pictures nor trackers. It calls these five methods, and `cli` composes the
observers: a live line or quiet notes, a picture, a tracker's mirror.
"""

import sys
from collections.abc import Sequence

from harness.race.trial import Trial
from harness.system.terminal import say


class Observer:
    """The null observer. Others override what they need."""

    def started(self, trial: Trial) -> list[int]:
        """Take note that training begins or continues.

        Returns:
            Pids of processes that the observer has started, which are not the submission's.
        """
        return []

    def row(self, row: dict) -> None:
        """Take an evaluation's row, as it stands in the log."""

    def tick(self, step: int) -> None:
        """Take the number of finished steps; called several times a second."""

    def note(self, text: str) -> None:
        """Take a line for the user."""

    def ended(self, trial: Trial, rows: list[dict], result: dict) -> None:
        """Take the result, before run.json is written: files made here belong to the record."""

    def close(self) -> None:
        """Release what the observer holds; called once, after the race."""


class Quiet(Observer):
    """The observer of a trial in a sweep: it prints the notes, each with the trial's label."""

    def __init__(self, label: str):
        self.label = label

    def note(self, text: str) -> None:
        say(f"{self.label}: {text}", sys.stderr)


class Several(Observer):
    """Several observers as one; each is called in order."""

    def __init__(self, observers: Sequence[Observer]):
        self._observers = observers

    def started(self, trial: Trial) -> list[int]:
        return [pid for each in self._observers for pid in each.started(trial)]

    def row(self, row: dict) -> None:
        for each in self._observers:
            each.row(row)

    def tick(self, step: int) -> None:
        for each in self._observers:
            each.tick(step)

    def note(self, text: str) -> None:
        for each in self._observers:
            each.note(text)

    def ended(self, trial: Trial, rows: list[dict], result: dict) -> None:
        for each in self._observers:
            each.ended(trial, rows, result)

    def close(self) -> None:
        for each in self._observers:
            each.close()
