"""How a trial ends, judged from its evaluations alone."""

import math

from harness import clock, hopeless, workload
from harness.plan import Trial
from harness.result import crossing

EXPLODED = 10.0  # a loss this many times its value before training ends the trial as diverged
Ending = tuple[str, str | None]  # outcome, and the reason where one is needed


def ending(
    trial: Trial, rows: list[dict], table: clock.Table, bound: hopeless.Bound | None
) -> Ending | None:
    """The outcome that the last of `rows` brings, or None when the trial goes on.

    Args:
        rows: the trial's evaluation rows that count, in order.
        bound: the rule that ends hopeless trials, or None where it is off.
    """
    block = trial.definition.block
    streaming = "stream" in block
    last, first = rows[-1], rows[0]
    metric, direction, _ = workload.primary(block["goal"])
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
    if not streaming and (over := clock.overdrawn(last["counts"], trial.budget, table)):
        return "invalid", over
    if ended:
        return "out_of_budget", None
    points = [(row["progress"], row["metrics"][metric]) for row in rows]
    why = bound.told(points) if bound else None
    return ("hopeless", why) if why else None
