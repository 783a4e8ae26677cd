"""Whether a goal was met, and how a trial ends, judged from its evaluations alone."""

import math

from harness.catalog import goal
from harness.clock import prices
from harness.race.trial import Trial
from harness.records import hopeless, run_folder, stream_metrics


def crossing(rows: list[dict], stream: bool = False) -> int | None:
    """Index of the first of two evaluations in a row that meet the goal (the start does not count).

    A stream's goal is about the whole of it: only its last row can meet it, and that row's `goal`
    says that the last two of its evaluations do.
    """
    if stream:
        return len(rows) - 1 if rows[-1]["goal"] else None
    for i in range(1, len(rows) - 1):
        if rows[i]["goal"] and rows[i + 1]["goal"]:
            return i
    return None


EXPLODED = 10.0  # a loss this many times its value before training ends the trial as diverged
Ending = tuple[str, str | None]  # outcome, and the reason where one is needed


def ending(
    trial: Trial, rows: list[dict], table: prices.Table, bound: hopeless.Bound | None
) -> Ending | None:
    """The outcome that the last of `rows` brings, or None when the trial goes on.

    Args:
        rows: the trial's evaluation rows that count, in order.
        bound: the rule that ends hopeless trials, or None where it is off.
    """
    block = trial.definition.block
    streaming = "stream" in block
    last, first = rows[-1], rows[0]
    metric, direction, _ = goal.primary(block["goal"])
    value = last["metrics"].get(metric, math.nan)
    initial = first["metrics"].get(metric, math.nan)
    trained = [last["train_loss"]] if last["train_loss"] is not None else []
    if not all(math.isfinite(v) for v in [*last["metrics"].values(), *trained]):
        return (
            "diverged",
            f"{metric} is {value} and the training loss {trained} at step {last['step']}",
        )
    if direction == "at_most" and value > EXPLODED * initial > 0:
        told = f"{metric} is {value:.4g} at step {last['step']}, {initial:.4g} before training"
        return "diverged", told
    ended = last["step"] >= trial.horizon
    if crossing(rows, streaming) is not None and (ended or trial.until == "goal"):
        return "reached", None
    if not streaming and (over := prices.overdrawn(last["counts"], trial.budget, table)):
        return "invalid", over
    if ended:
        return "out_of_budget", None
    points = [(row["progress"], row["metrics"][metric]) for row in rows]
    why = bound.told(points) if bound else None
    return ("hopeless", why) if why else None


def meets(trial: Trial, rows: list[dict], row: dict) -> bool:
    """Whether an evaluation's row meets the goal; of a stream, only its end can.

    A stream's goal must hold at its last two evaluations, which may lie between two rows.
    """
    block = trial.definition.block
    if not goal.meets(block["goal"], row["metrics"]):
        return False
    if "stream" not in block:
        return True
    before = stream_metrics.judge(block, [*rows, row], row["state_bytes"])[1]
    return row["step"] == trial.horizon and goal.meets(block["goal"], before)


def again(trial: Trial, rows: list[dict]) -> None:
    """Let every evaluation among a log's rows say whether it meets the goal as it is now."""
    for i, row in enumerate(rows):
        if row["event"] == "evaluation":
            row["goal"] = meets(trial, rows[:i], row)


def stands(trial: Trial, done: dict) -> bool:
    """Whether a finished trial's record is what was asked for.

    It is not where the goal's bounds or the measured prices have changed since, or where a trial
    that stopped at its goal is now to use up its budget: then the log is judged again, and the
    trial goes on if it must.
    """
    stopped = done["outcome"] == "reached" and done["step"] < done["horizon"]
    return (
        done["workload_hash"] == trial.definition.hash
        and (trial.table.provisional or done.get("prices") in (None, trial.table.origin))
        and not (trial.until == "budget" and stopped)
    )


def ended(rows: list[dict]) -> list[dict]:
    """The evaluations of a trial that has ended before; none if it has not."""
    seen = run_folder.evaluations(rows)
    return seen if seen and rows[-1]["event"] == "ended" else []
