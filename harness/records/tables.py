"""Runs as tables without loss: one row a run, one row an evaluation, one row a stream's point."""

import math
from collections.abc import Sequence

from harness.records.run import RecordedRun
from harness.records.schema import OUTPUT_COLUMNS
from harness.system.hashing import canonical

Table = tuple[list[str], list[list]]  # column names, and rows of their values

FIRST = (
    "workload", "scale", "variant", "submission", "study", "trial", "seed", "outcome", "time",
    "interpolated", "after", "metric", "target", "best", "final", "step", "horizon", "samples",
    "state_bytes", "provisional", "verified", "hp",
)  # fmt: skip
APART = ("evaluations", "stream")  # these have tables of their own


def run_table(runs: Sequence[RecordedRun], **extra: Sequence) -> Table:
    """Return one row a run with every field of its record.

    A dict or a list is a column of JSON text. `interpolated` is the time to the goal between two
    evaluations, `after` the time of the last evaluation before the goal was met. `best` and `final`
    are the goal's first metric, whose name is in `metric`; all metrics of the last evaluation are
    in `metrics`.

    Args:
        extra: further columns, which come first, each with one value a run.
    """
    own = {"about", "environment", "confirmed", "where"}
    derived = {"interpolated", "after", "best", "final", "metrics"}
    others = sorted({key for run in runs for key in run.record} - {*FIRST, *APART, *derived, *own})
    last = ["metrics", "about", "environment", "confirmed", "where"]
    columns = [*extra, *FIRST, *others, *last]
    rows = []
    for i, run in enumerate(runs):
        values = run.record | _derived(run)
        given = [column[i] for column in extra.values()]
        rows.append([*given, *(_cell(values.get(name)) for name in columns[len(extra) :])])
    return columns, rows


def _derived(run: RecordedRun) -> dict:
    rec = run.record
    metric = next(iter(rec["goal"]))
    return {
        "metric": metric,
        "interpolated": run.interpolated if math.isfinite(run.time) else None,
        "after": (rec.get("crossing") or {}).get("after"),
        "best": (rec.get("best") or {}).get(metric),
        "final": (rec.get("final") or {}).get(metric),
        "metrics": rec.get("final"),
        "about": run.about,
        "environment": run.environment,
        "confirmed": run.confirmed,
        "where": run.where,
    }


def _cell(value):
    return canonical(value) if isinstance(value, dict | list) else value


def curve_table(runs: Sequence[RecordedRun]) -> Table:
    """Return one row an evaluation: run_id, step, seconds with their interval, the metrics."""
    tables = [run.record.get("evaluations") or {"metrics": {}} for run in runs]
    metrics = sorted({name for table in tables for name in table["metrics"]})
    rows = []
    for run, table in zip(runs, tables, strict=True):
        count = len(table.get("step", ()))
        empty = [None] * count
        given = [table.get(name, empty) for name in OUTPUT_COLUMNS]
        values = [table["metrics"].get(name, empty) for name in metrics]
        rows += [[run.record["run_id"], *row] for row in zip(*given, *values, strict=True)]
    return ["run_id", *OUTPUT_COLUMNS, *metrics], rows


def task_table(runs: Sequence[RecordedRun]) -> Table:
    """Return one row a point of a stream's task: run_id, task, step, its quality at that step."""
    rows = [
        [run.record["run_id"], task, step, value]
        for run in runs
        for task, group in enumerate((run.record.get("stream") or {}).get("groups", ()), 1)
        for step, value in group
    ]
    return ["run_id", "task", "step", "value"], rows
