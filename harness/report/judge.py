"""What a record keeps of its evaluations, so that it can be judged again when a goal has moved.

A goal's bounds are no part of what a trial does: a record of the same training (`training_hash`)
says under new bounds what it would have said, as far as it trained. A trial that stopped at an
easier goal, or was ended early, says nothing about a harder one: it stays a record of its version.
"""

import math
from dataclasses import replace
from functools import cache

from harness import clock, continual, record, workload
from harness.campaign_plan import tree_of
from harness.errors import UserError
from harness.report.run import Run
from harness.result import crossing
from harness.workload import Definition

DIGITS = 9  # of a number in the table; more than a float32 has
JUDGED = ("reached", "out_of_budget", "hopeless")  # the goal decides no other outcome


def table(rec: dict, rows: list[dict]) -> dict:
    """A trial's evaluations by column: step, seconds with interval, the goal's metrics.

    A stream's goal holds at its last evaluation and the one `before`, which is no row of its own.
    """
    seen, names = [dict(row) for row in record.evaluations(rows)], list(rec["goal"])
    if sum(row["event"] == "ended" for row in rows) > 1 and "priced" in rec:
        clock.reprice(seen, clock.table_of(rec))  # judged again, perhaps by other prices
    made = {
        "step": [row["step"] for row in seen],
        "seconds": [_short(row["reference_seconds"]) for row in seen],
        "low": [_short(row.get("interval", [None])[0]) for row in seen],
        "high": [_short(row.get("interval", [None])[-1]) for row in seen],
        "metrics": {name: [_short(row["metrics"].get(name)) for row in seen] for name in names},
    }
    if seen and "stream" in (rec.get("config") or {}):
        found = continual.judge(rec["config"], rows, seen[-1]["state_bytes"])[1]
        made["before"] = {name: _short(found.get(name)) for name in names}
    return made


def curve(columns: dict, metric: str) -> list[list]:
    """(step, reference seconds, metric) of each evaluation."""
    every = zip(columns["step"], columns["seconds"], columns["metrics"][metric], strict=True)
    return [list(point) for point in every]


def _short(value: float | None) -> float | None:
    return value if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def again(run: Run, definition: Definition | None) -> Run:
    """The run as a record of `definition`, if it is one of the same training; else as it is."""
    rec = run.record
    if (
        definition is None
        or rec["workload_hash"] == definition.hash
        or rec.get("training_hash") != definition.training_hash
        or "evaluations" not in rec
        or rec["outcome"] == "hopeless"
    ):
        return run
    goal, columns = definition.block["goal"], rec["evaluations"]
    metric, _, bound = workload.primary(goal)
    judged = {"workload_hash": definition.hash, "goal": goal, "metric": metric, "target": bound}
    at = _crossing(columns, goal, "stream" in definition.block)
    if rec["outcome"] in JUDGED:
        if at is None and rec["step"] < rec["horizon"]:
            return run
        judged |= {"outcome": "out_of_budget", "reason": None, "time": None, "crossing": None}
        if at is not None:
            judged |= {"outcome": "reached", "time": columns["seconds"][at]}
            judged["crossing"] = {
                "step": columns["step"][at],
                "total": columns["seconds"][at],
                "after": columns["seconds"][at - 1],
                "low": columns["low"][at],
                "high": columns["high"][at],
            }
    return replace(run, record={k: v for k, v in (rec | judged).items() if k != "chain"})


def _crossing(columns: dict, goal: dict, stream: bool) -> int | None:
    names = columns["metrics"]
    rows = [
        {"goal": workload.meets(goal, dict(zip(names, values, strict=True)))}
        for values in zip(*names.values(), strict=True)
    ]
    if stream and rows:
        rows[-1]["goal"] = rows[-1]["goal"] and workload.meets(goal, columns["before"])
    return crossing(rows, stream) if rows else None


@cache
def present(name: str, scale: str, variant: str | None) -> Definition | None:
    """The workload as it is defined now; None if it is no longer."""
    try:
        return workload.define(name, tree_of(name), scale, variant)
    except UserError:
        return None


def by_present_goal(run: Run) -> Run:
    """The run judged by the goal that its workload has now."""
    r = run.record
    return again(run, present(r["workload"], r["scale"], r["variant"]))
