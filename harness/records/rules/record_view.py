"""What a rule reads, a RecordView, and what it returns, a Finding."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from harness.clock import prices
from harness.records import judging, log, run_folder
from harness.system import hashing

FAIL, MARK, OPEN = "fail", "mark", "open"
# Relative tolerance of a number that is computed again from the same log.
EXACT = 1e-9
# Relative tolerance of a number in a compact line, which keeps nine digits.
ROUNDED = 1e-7


class Finding(NamedTuple):
    """The result of a rule that the record does not simply keep.

    Attributes:
        kind: FAIL, the record breaks the rule; MARK, the record has a weakness that a reader must
            know; OPEN, the record lacks what the rule reads.
        text: the reason.
        mark: the short name of the weakness.
    """

    kind: str
    text: str
    mark: str = ""


def fail(text: str) -> Finding:
    """Return the finding of a broken rule."""
    return Finding(FAIL, text)


def needs_folder() -> Finding:
    """Return the finding of a rule that cannot be checked without the run's folder."""
    return Finding(OPEN, "needs the run's folder")


def same(first, second, within: float = EXACT) -> bool:
    """Return True if two values are equal, numbers within a relative tolerance. NaN equals NaN."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(
            same(first[k], second[k], within) for k in first
        )
    if isinstance(first, int | float) and isinstance(second, int | float):
        return (math.isnan(first) and math.isnan(second)) or math.isclose(
            first, second, rel_tol=within
        )
    return hashing.canonical(first) == hashing.canonical(second)


@dataclass(frozen=True)
class RecordView:
    """A record, and what there is to check it by: its folder with the log, or only itself.

    Attributes:
        record: the content of run.json, or of a compact line.
        folder: the run's folder, or None for a compact line.
        environment: the environment of the run.
        confirmed: True if a record of the same run from another machine has the same result.
        checked: True if who read the record checked its fields, as a compact file's reader does.
    """

    record: dict
    folder: Path | None = None
    environment: dict = field(default_factory=dict)
    confirmed: bool = False
    checked: bool = False

    @property
    def key(self) -> str:
        """Return the workload's name, scale and variant."""
        variant = f".{self.record['variant']}" if self.record["variant"] else ""
        return f"{self.record['workload']}.{self.record['scale']}{variant}"

    @property
    def streaming(self) -> bool:
        """Return True if the workload is a stream."""
        return "stream" in (self.record.get("config") or self.record)

    @cached_property
    def rows(self) -> list[dict]:
        """Return the rows of the log that count."""
        assert self.folder
        return run_folder.valid_rows(log.rows(self.folder / "log.jsonl"))

    @cached_property
    def evaluations(self) -> list[dict]:
        """Return the evaluations that count, each judged again by the goal of the record."""
        if not self.folder:
            columns = self.record.get("evaluations")
            return judging.rows_of_columns(columns, self.record["goal"], self.streaming)
        rows = judging.rejudge(self.terms, self.rows)
        return [row for row in rows if row["event"] == "evaluation"]

    @property
    def terms(self) -> judging.Terms:
        """Return the numbers that, by the record, decided its outcome."""
        record = self.record
        block = record["config"] | {"goal": record["goal"]}
        return judging.Terms(block, record["horizon"], record["budget"]["steps"])

    @cached_property
    def table(self) -> prices.Table:
        """Return the prices that the record states."""
        return prices.recorded_table(self.record)

    @property
    def crossing(self) -> int | None:
        """Return the index of the evaluation that met the goal first and kept it, or None."""
        return judging.crossing(self.evaluations, self.streaming)
