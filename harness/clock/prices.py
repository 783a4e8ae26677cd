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

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

from harness.catalog.kinds import REFERENCE_STEP, canonical_kind
from harness.errors import UserError
from harness.system.hashing import canonical, digest

SCHEMA = 1
OVERDRAWN = 1.01  # more of the budget than this ends a trial


@dataclass(frozen=True)
class Price:
    """Reference seconds of one pass of a kind, their 95 % interval, its FLOPs if counted."""

    seconds: float
    low: float
    high: float
    flops: float | None = None

    def times(self, factor: float) -> "Price":
        return Price(self.seconds * factor, self.low * factor, self.high * factor, self.flops)


@dataclass(frozen=True)
class Table:
    """Prices of a workload's kinds.

    Attributes:
        prices: by kind; in units of a reference step when `relative`.
        origin: where they come from, for the record.
        why: why results are provisional, or None when they are not.
        step, torch: hash of the step's code and shapes, and the torch version, at measurement.
    """

    prices: dict[str, Price]
    origin: str
    why: str | None = None
    relative: bool = False
    step: str = ""
    torch: str = ""

    @property
    def provisional(self) -> bool:
        return self.why is not None

    @property
    def name(self) -> str:
        """The file it was read from."""
        return self.origin.split()[0]

    def of(self, kind: str) -> Price:
        if kind not in self.prices:
            raise UserError(
                f"kind {kind!r} has no price in {self.origin}",
                f"priced: {', '.join(sorted(self.prices))}",
                "declare it in the submission's PASSES, or run harness calibrate",
            )
        return self.prices[kind]

    def at(self, anchor: float) -> "Table":
        """Prices in seconds, where a reference step takes `anchor` seconds here."""
        if not self.relative:
            return self
        prices = {kind: price.times(anchor) for kind, price in self.prices.items()}
        return replace(self, prices=prices, relative=False)


def counted(counts: dict[str, int], table: Table) -> float:
    """Reference seconds of the counted kinds."""
    return sum(n * table.of(kind).seconds for kind, n in sorted(counts.items()))


def flops(counts: dict[str, int], table: Table) -> float | None:
    """FLOPs of the counted kinds; None when those of one of them were never counted."""
    each = [(n, table.of(kind).flops) for kind, n in counts.items()]
    known = [n * f for n, f in each if f is not None]
    return float(sum(known)) if len(known) == len(each) else None


def table_of(rec: dict) -> Table:
    """The prices that a trial's record says it was priced with."""
    priced = {kind: Price(**price) for kind, price in rec["priced"].items()}
    return Table(priced, rec["prices"], rec["provisional_why"])


def horizon_of(steps: int, passes: dict[str, float], table: Table) -> int:
    """Steps that a budget of `steps` reference steps buys a submission making `passes` per step.

    Counted work alone decides, so the horizon (and with it every schedule) is exact and no clock
    ever reaches the training; what a method does outside the kinds is charged to its time instead.
    """
    if passes == {REFERENCE_STEP: 1}:
        return steps
    per_step = sum(n * table.of(kind).seconds for kind, n in passes.items())
    if per_step <= 0:
        raise UserError(f"PASSES {passes} cost nothing", "at least one counted pass per step")
    return max(1, math.floor(steps * table.of(REFERENCE_STEP).seconds / per_step + 1e-9))


def overdrawn(counts: dict[str, int], steps: int, table: Table) -> str | None:
    """What is wrong where passes cost more than a budget of `steps` reference steps, or None."""
    spent, budget = counted(counts, table), steps * table.of(REFERENCE_STEP).seconds
    if spent <= budget * OVERDRAWN + max((p.seconds for p in table.prices.values()), default=0.0):
        return None
    cost = f"its passes cost {spent:.4g} s of a budget of {budget:.4g} s"
    return f"{cost}: PASSES declares fewer than were made"


def canonical_passes(passes: dict[str, float]) -> dict[str, float]:
    """PASSES with canonical kind names; UserError for a kind that does not exist."""
    try:
        return {canonical_kind(kind): n for kind, n in passes.items()}
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"PASSES: {error}") from None


def load_table(path: Path) -> Table | None:
    """The price table in `path`, or None where there is none.

    Raises:
        UserError: the table is damaged, or was changed after it was measured.
    """
    if not path.exists():
        return None
    again = "restore it from version control, or measure it: harness calibrate"
    try:
        raw = json.loads(path.read_text())
        if raw["schema"] != SCHEMA:
            raise UserError(
                f"price table {path} has schema {raw['schema']}", f"schema {SCHEMA}", again
            )
        if raw["hash"] != table_hash(raw):
            raise UserError(
                f"price table {path} was edited: its hash is not that of its content", do=again
            )
        names = ("seconds", "low", "high", "flops")
        prices = {k: Price(*(p[n] for n in names)) for k, p in raw["prices"].items()}
        origin, busy = f"{path.name} {raw['hash']}", raw["busy"]
        why = f"its price table was measured on a busy machine: {busy}" if busy else None
        return Table(prices, origin, why, False, raw["step"], raw["machine"]["torch"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"price table {path} is damaged: {error!r}", do=again) from None


def table_hash(raw: dict) -> str:
    """The hash that a table carries of everything else in it."""
    return digest(canonical({k: v for k, v in raw.items() if k != "hash"}))[:16]
