"""A record under examination: what a rule is given, and what it answers."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from harness.catalog.goal import meets
from harness.clock import prices
from harness.records import log, run_folder, stream_metrics
from harness.records.judging import crossing
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
        goal = self.record["goal"]
        if not self.folder:
            return _of_columns(self.record.get("evaluations"), goal, self.streaming)
        found = []
        for i, row in enumerate(self.rows):
            if row["event"] != "evaluation":
                continue
            met = meets(goal, row["metrics"])
            if self.streaming:  # only its end can meet the goal, and the evaluation before it
                block = self.record["config"]
                before = stream_metrics.judge(block, self.rows[: i + 1], row["state_bytes"])[1]
                met = met and row["step"] == self.record["horizon"] and meets(goal, before)
            found.append(row | {"goal": met})
        return found

    @cached_property
    def table(self) -> prices.Table:
        """The prices that the record says it was priced with."""
        return prices.table_of(self.record)

    @property
    def at(self) -> int | None:
        """Index of the evaluation at which the goal was first met for good."""
        return crossing(self.seen, self.streaming) if self.seen else None


def _of_columns(columns: dict | None, goal: dict, streaming: bool) -> list[dict]:
    """The evaluations of a compact line as rows."""
    if not columns:
        return []
    names, rows = list(columns["metrics"]), []
    table = zip(columns["step"], columns["seconds"], *columns["metrics"].values(), strict=True)
    for step, seconds, *values in table:
        metrics = dict(zip(names, values, strict=True))
        met = meets(goal, metrics)
        rows.append({"step": step, "seconds": seconds, "metrics": metrics, "goal": met})
    if streaming and rows:
        rows[-1]["goal"] = rows[-1]["goal"] and meets(goal, columns["before"])
    return rows
