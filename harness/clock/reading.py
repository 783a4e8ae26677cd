"""Reference seconds: counts of kinds times their prices, plus what was done outside the kinds.

    reference seconds = counted + other + hidden + set-up + lost
    counted = sum_k n_k * price_k
    other   = counted * (1 + x) * r    r: upper end of  seconds outside / seconds inside the kinds
    hidden  = counted * x              x: seconds inside the kinds / seconds expected there, less 1
    set-up  = seconds of the submission's set-up * price of a reference step / its seconds here
    lost    = work repeated after a crash, at the trial's mean price of a step

r and x are ratios of times taken in the same process at the same moments, so a slow or busy
machine cancels out of them; n_k is exact. The expected seconds are those of a reference step on an
untouched copy of the model, timed at evaluations, times relative prices. x counts in full
where the model carries hooks, and beyond SLACK elsewhere, for relative prices differ between
machines.
Everything here is a pure function of a trial's log and a price table.
"""

import math
from dataclasses import dataclass

from harness.catalog.kinds import REFERENCE_STEP
from harness.clock.prices import Table, counted

Z = 1.96  # two-sided 95 % normal quantile
SLACK = 0.25  # honest trials stay below it, docs/clock.md


def ratio(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Sum of the second over sum of the first of (x, y) pairs: its value, and its upper 95 % end.

    A ratio estimator, with the standard error of its residuals.
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
    """The clock at one row of a log, in reference seconds, each part by itself."""

    counted: float
    other: float
    hidden: float
    setup: float
    lost: float
    low: float
    high: float

    @property
    def total(self) -> float:
        return self.counted + self.other + self.hidden + self.setup + self.lost


def read(rows: list[dict], table: Table) -> Reading:
    """The clock at the last of `rows`: one trial's evaluation rows that count, in order.

    Each row has cumulative `counts`; of its own segment `inside` and `outside` seconds, the
    `passes` made and the `anchor`, a reference step's seconds; and cumulative `setup_seconds`,
    `lost_steps` and `hooked`, what was found on the model. `anchor_seconds` is the anchor before
    set-up.
    """
    last = rows[-1]
    work = counted(last["counts"], table)
    inside = [float(sum(row["inside"].values())) for row in rows]
    outside = [row["outside"] for row in rows]
    mean, upper = ratio(list(zip(inside, outside, strict=True)))
    excess = _excess(rows, inside, table)
    other = upper * work * (1 + excess) if work else _scaled(sum(outside), last, table)
    hidden = excess * work
    setup = _scaled(last["setup_seconds"], last, table)
    spent = work + other + hidden
    lost = last["lost_steps"] * spent / last["step"] if last["step"] else 0.0
    fixed = setup + lost + (other if not work else 0.0)
    least = sum(n * table.of(k).low for k, n in last["counts"].items())
    most = sum(n * table.of(k).high for k, n in last["counts"].items())
    low = least * (1 + excess) * (1 + max(0.0, 2 * mean - upper)) + fixed
    high = most * (1 + excess) * (1 + upper) + fixed
    return Reading(work, other, hidden, setup, lost, low, high)


def reprice(rows: list[dict], table: Table) -> None:
    """Let each of a trial's evaluation rows, in order, tell its reference seconds by these prices.

    A log keeps those of the prices it was written with; a trial may have been judged again since.
    """
    for i, row in enumerate(rows):
        reading = read(rows[: i + 1], table)
        row["reference_seconds"], row["interval"] = reading.total, [reading.low, reading.high]


def _excess(rows: list[dict], inside: list[float], table: Table) -> float:
    """Share by which the passes took longer than an untouched model's, as far as it is charged."""
    unit = table.of(REFERENCE_STEP).seconds
    expected = [counted(row["passes"], table) / unit * row["anchor"] for row in rows]
    mean, upper = ratio(list(zip(expected, inside, strict=True)))
    return max(0.0, upper - 1 if rows[-1]["hooked"] else mean - 1 - SLACK)


def _scaled(seconds: float, row: dict, table: Table) -> float:
    """Seconds of this machine in reference seconds, through the reference step timed on both."""
    return seconds * table.of(REFERENCE_STEP).seconds / row["anchor_seconds"]
