"""An append-only log of JSON rows. A row has a hash chained to the row before: edits show."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NotRequired, TypedDict

from harness.system.files import BadFile, append_line

START = "0" * 16


class EvaluationRow(TypedDict):
    """An evaluation in a run's log.

    Counts and charges are cumulative. Seconds are those of the segment, which is the training
    between two hand-overs. Only the rows of a stream have `tasks` and `trace`.
    """

    event: str  # "evaluation"
    step: int
    progress: float  # share of the horizon
    samples: int  # training examples used for gradients
    counts: dict[str, int]  # passes by kind
    passes: dict[str, int]  # passes by kind, of the segment
    inside: dict[str, float]  # seconds inside the passes, by kind
    outside: float  # seconds of the segment beside them
    anchor: float  # seconds of the last reference step
    anchor_seconds: float  # of the reference step before training
    setup_seconds: float
    lost_steps: int
    hooked: str | None  # what was found on the model
    state_bytes: int
    skipped: NotRequired[int]  # steps without an update, since gradients overflowed in float16
    train_loss: float | None  # mean over the segment's steps
    tasks: NotRequired[list[list]]  # [sum of quality, examples] of each evaluated group
    trace: NotRequired[list[list]]  # [step, tasks] of the steps on the way
    metrics: dict[str, float]
    goal: bool  # whether the metrics meet the goal
    weights: str  # digest
    reference_seconds: float
    interval: list[float]
    cpu_seconds: float
    wall_seconds: float
    referee_cpu_seconds: float
    evaluation_seconds: float
    at: float  # seconds since 1970


class Log:
    """A log opened for appending. Only one process may write at a time (`files.locked`).

    An existing file is continued; an incomplete last line, which a crash has left, is removed
    first. A row is on the disk when `append` returns, so a checkpoint never exists without the row
    before it.

    Raises:
        BadFile: a line was changed, is missing, or is not a JSON object.

    Attributes:
        chain: the chain value of the last row. `run.json` keeps it, since the log alone cannot
            show that rows are missing at its end.
        size: bytes of the file.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._continue()

    def _continue(self) -> None:
        """Read the existing file, find its end, and remove an incomplete last line."""
        self.chain, self.size = START, 0
        if not self.path.exists():
            return
        remedy = f"restore it, or remove {self.path.parent} to start again"
        for number, line, row in _lines(self.path):
            if row is None:
                if self.size + len(line) < self.path.stat().st_size:
                    raise BadFile(self.path, f"line {number} is not a JSON object", remedy)
                os.truncate(self.path, self.size)
                return
            stated = row.pop("chain", None)
            if stated != _link(self.chain, row):
                raise BadFile(self.path, f"line {number} is not as it was written", remedy)
            self.size, self.chain = self.size + len(line), stated

    def append(self, row: dict) -> dict:
        """Append `row` with its chain value as `"chain"`. Return the row as written.

        Raises:
            DiskFull: the disk is full; the log is unchanged.
        """
        assert "chain" not in row, "the log computes the chain"
        if self.path.exists() and self.path.stat().st_size != self.size:
            # An interrupt came after a row was written, and before size and chain were set.
            self._continue()
        # Hash the row as a reader will see it: string keys, and lists for tuples.
        row = json.loads(json.dumps(row))
        chain = _link(self.chain, row)
        row["chain"] = chain
        line = json.dumps(row)
        append_line(self.path, line, durable=True)
        self.size, self.chain = self.size + len(line.encode()) + 1, chain
        return row


def rows(path: Path | str) -> list[dict]:
    """Return all rows with their "chain", not verified. An incomplete last line is left out.

    Raises:
        BadFile: a line before the last is not a JSON object.
    """
    rows_read, broken = [], 0
    for number, _, row in _lines(Path(path)):
        if broken:
            raise BadFile(path, f"line {broken} is not a JSON object")
        if row is None:
            broken = number
        else:
            rows_read.append(row)
    return rows_read


def verify(path: Path | str, last: str = "") -> list[str]:
    """Return what is wrong with a log: edited, missing, reordered or incomplete rows.

    Args:
        last: the chain value that the last row should have, if it is known (see `Log.chain`).
    """
    problems, chain = [], START
    for number, _, row in _lines(Path(path)):
        if row is None:
            problems.append(f"line {number} is torn or not a JSON object")
            continue
        stated = row.pop("chain", None)
        expected = _link(chain, row)
        if stated != expected:
            problems.append(f"line {number} has chain {stated}, its content gives {expected}")
        # Continue from the stated value, so that one edit is reported once.
        chain = str(stated)
    if last and chain != last:
        problems.append(f"the last row has chain {chain}, {last} was recorded: rows are missing")
    return problems


def _link(previous: str, row: dict) -> str:
    """Return the chain value of a row: 16 hexadecimal digits of SHA-256.

    The hash is over the chain value before it and the row.
    """
    canonical = json.dumps(row, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256((previous + canonical).encode()).hexdigest()[:16]


def _lines(path: Path) -> Iterator[tuple[int, bytes, dict | None]]:
    """Yield (line number from 1, raw line, row) of each line.

    The row is None if the line is incomplete or not a JSON object.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):
                row = None
            yield number, line, row if isinstance(row, dict) else None
