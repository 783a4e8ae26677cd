"""A record under examination: what a rule is given, and what it answers."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from harness.clock import prices
from harness.records import judging, log, run_folder
from harness.system import hashing

FAIL, MARK, OPEN = "fail", "mark", "open"
EXACT = 1e-9  # of a number that is computed again from the same log
ROUNDED = 1e-7  # of a number in a compact line, which keeps nine digits


class Finding(NamedTuple):
    """What a rule found where it does not simply hold.

    FAIL: the record breaks it. MARK: a weakness that a reader must know, with its short name.
    OPEN: this record lacks what the rule looks at.
    """

    kind: str
    text: str
    mark: str = ""


def fail(text: str) -> Finding:
    return Finding(FAIL, text)


def needs_folder() -> Finding:
    return Finding(OPEN, "needs the run's folder")


def same(one, other, within: float = EXACT) -> bool:
    """Equal, numbers to a relative tolerance; NaN equals NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k], within) for k in one)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=within)
    return hashing.canonical(one) == hashing.canonical(other)


@dataclass(frozen=True)
class Case:
    """A record, and what there is to check it by: its folder with the log, or nothing but itself.

    Attributes:
        record: run.json's content, or a compact line's.
        folder: the run's folder, or None for a compact line.
        environment: of the run.
        confirmed: another record of this very run, from another machine, says the same.
    """

    record: dict
    folder: Path | None = None
    environment: dict = field(default_factory=dict)
    confirmed: bool = False

    @property
    def key(self) -> str:
        """The workload's name, scale and variant."""
        variant = f".{self.record['variant']}" if self.record["variant"] else ""
        return f"{self.record['workload']}.{self.record['scale']}{variant}"

    @property
    def streaming(self) -> bool:
        return "stream" in (self.record.get("config") or self.record)

    @cached_property
    def rows(self) -> list[dict]:
        """The log's rows that count."""
        assert self.folder
        return run_folder.valid_rows(log.rows(self.folder / "log.jsonl"))

    @cached_property
    def seen(self) -> list[dict]:
        """The evaluations that count, each judged anew by the goal that the record states."""
        if not self.folder:
            columns = self.record.get("evaluations")
            return judging.rows_of_columns(columns, self.record["goal"], self.streaming)
        rows = judging.rejudge(self.terms, self.rows)
        return [row for row in rows if row["event"] == "evaluation"]

    @property
    def terms(self) -> judging.Terms:
        """The numbers that the record says it was judged by."""
        rec = self.record
        block = rec["config"] | {"goal": rec["goal"]}
        return judging.Terms(block, rec["horizon"], rec["budget"]["steps"])

    @cached_property
    def table(self) -> prices.Table:
        """The prices that the record says it was priced with."""
        return prices.recorded_table(self.record)

    @property
    def at(self) -> int | None:
        """Index of the evaluation at which the goal was first met for good."""
        return judging.crossing(self.seen, self.streaming)
