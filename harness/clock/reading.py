"""Compute the reference seconds of a trial from its log and a price table.

    reference seconds = counted + other + hidden + set-up + lost
    counted = sum_k n_k * price_k
    other   = counted * (1 + x) * r    r: upper end of  seconds outside / seconds inside the passes
    hidden  = counted * x              x: seconds inside the passes / seconds expected there, less 1
    set-up  = seconds of the submission's set-up * price of a reference step / its seconds here
    lost    = work repeated after a crash, at the trial's mean price of a step

The counts n_k are exact. r and x are ratios of times that the same process took at the same
moments, so the speed and load of the machine cancel. The expected seconds are those of a reference
step on an untouched copy of the model, timed at evaluations, times relative prices. x counts in
full if the model has hooks. Otherwise only its part beyond SLACK counts, since relative prices
differ between machines.
"""

import math
from dataclasses import dataclass

from harness.catalog.kinds import REFERENCE_STEP, computes
from harness.clock.prices import Table, counted

Z = 1.96  # two-sided 95 % normal quantile
# The excess of honest trials stays below this (docs/clock.md).
SLACK = 0.25


def ratio(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the ratio sum(y) / sum(x) of (x, y) pairs, and the upper end of its 95 % interval.

    The interval is that of a ratio estimator, from the standard error of its residuals.
    """
    below, above = sum(x for x, _ in pairs), sum(y for _, y in pairs)
    if below <= 0:
        return 0.0, 0.0
    r, n = above / below, len(pairs)
    if n < 2:
        return r, r
    spread = math.sqrt(n / (n - 1) * sum((y - r * x) ** 2 for x, y in pairs)) / below
    return r, r + Z * spread


@dataclass(frozen=True)
class Reading:
    """The clock at one row of a log, in reference seconds, by part, with its interval."""

    counted: float
    other: float
    hidden: float
    setup: float
    lost: float
    low: float
    high: float

    @property
    def total(self) -> float:
        """Return the sum of the parts."""
        return self.counted + self.other + self.hidden + self.setup + self.lost


def read(rows: list[dict], table: Table) -> Reading:
    """Return the clock at the last of `rows`, the evaluation rows of a trial that count, in order.

    `EvaluationRow` in harness/records/log.py describes a row. Its `counts`, `setup_seconds`,
    `lost_steps` and `hooked` are cumulative. Its `inside`, `outside`, `passes` and `anchor` (the
    seconds of a reference step) are its segment's. `anchor_seconds` was measured before set-up.
    """
    last = rows[-1]
    work, talk = counted(_computed(last["counts"]), table), counted(_talked(last["counts"]), table)
    inside = [float(sum(row["inside"].values())) for row in rows]
    outside = [row["outside"] for row in rows]
    mean, upper = ratio(list(zip(inside, outside, strict=True)))
    excess = _excess(rows, inside, table)
    # Seconds beside passes that took no time have no ratio to them.
    timed = work and sum(inside) > 0
    other = upper * work * (1 + excess) if timed else _scaled(sum(outside), last, table)
    hidden = excess * work
    setup = _scaled(last["setup_seconds"], last, table)
    spent = work + talk + other + hidden
    lost = last["lost_steps"] * spent / last["step"] if last["step"] else 0.0
    fixed = setup + lost + talk + (0.0 if timed else other)
    least = sum(n * table.of(k).low for k, n in _computed(last["counts"]).items())
    most = sum(n * table.of(k).high for k, n in _computed(last["counts"]).items())
    low = least * (1 + excess) * (1 + max(0.0, 2 * mean - upper)) + fixed
    high = most * (1 + excess) * (1 + upper) + fixed
    return Reading(work + talk, other, hidden, setup, lost, low, high)


def _computed(counts: dict) -> dict:
    """Return the passes that compute."""
    return {kind: n for kind, n in counts.items() if computes(kind)}


def _talked(counts: dict) -> dict:
    """Return exchanges among clients and labels: their price is stated, and they hide no work."""
    return {kind: n for kind, n in counts.items() if not computes(kind)}


def reprice(rows: list[dict], table: Table) -> None:
    """Write the reference seconds by these prices into each of a trial's evaluation rows.

    The rows of a log have the reference seconds of the prices at that time. The trial may have been
    judged by other prices since.
    """
    for i, row in enumerate(rows):
        reading = read(rows[: i + 1], table)
        row["reference_seconds"], row["interval"] = reading.total, [reading.low, reading.high]


def _excess(rows: list[dict], inside: list[float], table: Table) -> float:
    """Return the charged share by which passes took longer than those of an untouched model."""
    unit = table.of(REFERENCE_STEP).seconds
    expected = [counted(_computed(row["passes"]), table) / unit * row["anchor"] for row in rows]
    mean, upper = ratio(list(zip(expected, inside, strict=True)))
    return max(0.0, upper - 1 if rows[-1]["hooked"] else mean - 1 - SLACK)


def _scaled(seconds: float, row: dict, table: Table) -> float:
    """Convert seconds of this machine to reference seconds, by the price of a reference step."""
    return seconds * table.of(REFERENCE_STEP).seconds / row["anchor_seconds"]
