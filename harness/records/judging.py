"""Whether a goal is met and how a trial ends: pure functions of a trial's evaluation rows.

The referee, the rules, the report and the pictures ask here, so there is one answer to "is the goal
met?". A finished trial can therefore be judged again, from its log or from its compact line, when
the goal's bounds have changed.

A goal is reached at the first of two evaluations in a row that meet it. The goal of a stream is
about the whole stream: it is reached at the last evaluation if the last two meet it.
"""

import math
from dataclasses import dataclass

from harness.catalog.goal import primary
from harness.catalog.kinds import REFERENCE_STEP
from harness.clock import reading
from harness.clock.prices import Table, overdrawn
from harness.records import stream_metrics
from harness.records.hopeless import Bound

EXPLODED = 10.0  # a loss this many times its value before training ends the trial as diverged
SLOWEST = 10.0  # times the seconds of its budget end a trial, set-up and lost steps left out
PATIENCE = 60.0  # reference seconds that no trial is ended for: ratios of short times are noise
Ending = tuple[str, str | None]  # outcome, and the reason where one is needed


@dataclass(frozen=True)
class Terms:
    """The numbers that a trial is judged by.

    Attributes:
        block: the workload's numbers; `goal`, `evaluate` and `stream` are read.
        horizon: the trial's last step.
        budget: the reference steps that the trial may spend.
        until: "goal", or "budget" for a trial that goes on after it has reached the goal.
    """

    block: dict
    horizon: int
    budget: int
    until: str = "goal"

    @property
    def goal(self) -> dict:
        return self.block["goal"]

    @property
    def streaming(self) -> bool:
        return "stream" in self.block


def conditions_hold(goal: dict, metrics: dict) -> bool:
    """Return True if every condition of the goal holds for these metrics.

    A value that is missing or not finite meets no condition.
    """
    for metric, condition in goal.items():
        value = metrics.get(metric)
        if value is None or not math.isfinite(value):
            return False
        for direction, bound in condition.items():
            if value > bound if direction == "at_most" else value < bound:
                return False
    return True


def best(rows: list[dict], goal: dict) -> float | None:
    """Return the best finite value of the goal's first metric over evaluation rows, or None.

    A model may be best before it is pruned. So a row counts only if no other one meets more of the
    goal's further conditions.
    """
    metric, direction, _ = primary(goal)
    further = [{name: goal[name]} for name in goal if name != metric]
    values: dict[int, list[float]] = {}
    for row in rows:
        value = row["metrics"].get(metric)
        if value is not None and math.isfinite(value):
            met = sum(conditions_hold(condition, row["metrics"]) for condition in further)
            values.setdefault(met, []).append(value)
    return (min if direction == "at_most" else max)(values[max(values)]) if values else None


def goal_met(terms: Terms, earlier: list[dict], row: dict) -> bool:
    """Return True if an evaluation's row meets the goal.

    Only the last evaluation of a stream can. The goal must also hold at the evaluation before it,
    which may lie between two rows of the log.

    Args:
        earlier: the log's rows before `row`; read for streams alone.
    """
    if not conditions_hold(terms.goal, row["metrics"]):
        return False
    if not terms.streaming:
        return True
    before = stream_metrics.goal_metrics(terms.block, [*earlier, row], row["state_bytes"])[1]
    return row["step"] == terms.horizon and conditions_hold(terms.goal, before)


def rejudge(terms: Terms, rows: list[dict]) -> list[dict]:
    """Return a log's rows with `goal` of every evaluation judged anew."""
    return [
        row | {"goal": goal_met(terms, rows[:i], row)} if row["event"] == "evaluation" else row
        for i, row in enumerate(rows)
    ]


def rows_of_columns(columns: dict | None, goal: dict, streaming: bool) -> list[dict]:
    """Return the evaluations of a compact line as rows, each judged by `goal`.

    Args:
        columns: `step`, `seconds` and `metrics` by name; of a stream also `before`, the metrics at
            the evaluation before the last.
    """
    if not columns:
        return []
    names, rows = list(columns["metrics"]), []
    points = zip(columns["step"], columns["seconds"], *columns["metrics"].values(), strict=True)
    for step, seconds, *values in points:
        metrics = dict(zip(names, values, strict=True))
        met = conditions_hold(goal, metrics)
        rows.append({"step": step, "seconds": seconds, "metrics": metrics, "goal": met})
    if streaming and rows:
        rows[-1]["goal"] = rows[-1]["goal"] and conditions_hold(goal, columns["before"])
    return rows


def crossing(rows: list[dict], streaming: bool = False) -> int | None:
    """Return the index of the evaluation at which the goal was reached, or None.

    The evaluation before training does not count.

    Args:
        rows: a trial's evaluations in order, each with `goal`.
    """
    if not rows:
        return None
    if streaming:
        return len(rows) - 1 if rows[-1]["goal"] else None
    for i in range(1, len(rows) - 1):
        if rows[i]["goal"] and rows[i + 1]["goal"]:
            return i
    return None


def interpolated_time(rows: list[dict], goal: dict, at: int) -> float:
    """Return the seconds at which the goal was reached, between two evaluations.

    The goal was met at evaluation `at` and not at the one before it. Of every condition that did
    not hold before, the value is taken to change evenly between the two: its logarithm where it
    must fall below a positive bound (losses, errors), else the value itself. The result is the
    latest of these crossings, and within the two evaluations. It is the evaluation's own time where
    nothing can be interpolated: the value before is missing or not finite, or the goal held then.

    Args:
        rows: a trial's evaluations in order: `seconds` and `metrics`.
        at: the index of the evaluation that reached the goal, as `crossing` returns it.
    """
    before, row = rows[at - 1], rows[at]
    shares = [
        _crossed(before["metrics"].get(metric), row["metrics"][metric], direction, bound)
        for metric, condition in goal.items()
        for direction, bound in condition.items()
    ]
    share = max((share for share in shares if share is not None), default=1.0)
    start, end = before["seconds"], row["seconds"]
    return min(max(start + share * (end - start), start), end)


def _crossed(before: float | None, after: float, direction: str, bound: float) -> float | None:
    """Return the share of the way from one value to the next at which a condition began to hold.

    Return None if it held before.
    """
    if before is None or not math.isfinite(before):
        return 1.0
    if before <= bound if direction == "at_most" else before >= bound:
        return None
    if direction == "at_most" and bound > 0 and after > 0:
        # In the logarithm of the bound's multiple, which is exact where the three are close.
        above, below = math.log(before / bound), math.log(after / bound)
        return above / (above - below)
    return (before - bound) / (before - after)


def ending(terms: Terms, rows: list[dict], table: Table, bound: Bound | None) -> Ending | None:
    """Return the outcome that the last evaluation brings, or None if the trial goes on.

    Args:
        rows: the trial's evaluations in order, at least one.
        bound: the rule that ends hopeless trials, or None if it is off.
    """
    last = rows[-1]
    if reason := _divergence(terms.goal, rows[0], last):
        return "diverged", reason
    at_end = last["step"] >= terms.horizon
    if crossing(rows, terms.streaming) is not None and (at_end or terms.until == "goal"):
        return "reached", None
    if not terms.streaming and (reason := overdrawn(last["counts"], terms.budget, table)):
        return "invalid", reason
    if at_end:
        return "out_of_budget", None
    if reason := _too_slow(terms, rows, table):
        return "out_of_budget", reason
    metric = primary(terms.goal)[0]
    points = [(row["progress"], row["metrics"][metric]) for row in rows]
    reason = bound.reason(points) if bound else None
    return ("hopeless", reason) if reason else None


def _divergence(goal: dict, first: dict, last: dict) -> str | None:
    """Return why a trial counts as diverged, or None: a value is not finite, or a loss exploded."""
    metric, direction, _ = primary(goal)
    value, initial = (row["metrics"].get(metric, math.nan) for row in (last, first))
    losses = [last["train_loss"]] if last["train_loss"] is not None else []
    if not all(math.isfinite(v) for v in [*last["metrics"].values(), *losses]):
        return f"{metric} is {value} and the training loss {losses} at step {last['step']}"
    if direction == "at_most" and value > EXPLODED * initial > 0:
        return f"{metric} is {value:.4g} at step {last['step']}, {initial:.4g} before training"
    return None


def _too_slow(terms: Terms, rows: list[dict], table: Table) -> str | None:
    """Return a message if the work beside a trial's passes took many times its budget, or None.

    A budget is a number of passes, and what is computed beside them is not among them. A trial
    that would take hours is over long after it has missed: a miss counts as four times the
    reference's time.
    """
    clock = reading.read(rows, table)
    spent = clock.total - clock.setup - clock.lost
    budget = terms.budget * table.of(REFERENCE_STEP).seconds
    if spent <= max(SLOWEST * budget, PATIENCE):
        return None
    return f"{spent:.4g} s of training, {spent / budget:.3g} times its budget of {budget:.4g} s"


def is_current(record: dict, workload_hash: str, table: Table, until: str) -> bool:
    """Return True if the finished record still answers this request.

    It does not if the goal's bounds or the measured prices have changed since, or if a trial that
    stopped at its goal is now to use up its budget. The log is then judged again, and the trial
    goes on if it must.
    """
    stopped = record["outcome"] == "reached" and record["step"] < record["horizon"]
    return (
        record["workload_hash"] == workload_hash
        and (table.provisional or record.get("prices") in (None, table.origin))
        and not (until == "budget" and stopped)
    )
