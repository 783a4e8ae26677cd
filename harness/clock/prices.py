"""Price tables: the reference seconds of one pass of each kind, and sums over counted passes.

A price is the reference seconds of one pass. `reading` adds what a submission does outside the
passes. All functions here depend on their arguments alone.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

from harness.catalog.kinds import LABEL, REFERENCE_STEP, alone, canonical_kind
from harness.errors import UserError
from harness.system.hashing import canonical, digest

SCHEMA = 1
# A trial ends as `invalid` when its passes cost more than this share of its budget.
OVERDRAWN = 1.01


@dataclass(frozen=True)
class Price:
    """Reference seconds of one pass of a kind, their 95 % interval, and its FLOPs if counted."""

    seconds: float
    low: float
    high: float
    flops: float | None = None

    def times(self, factor: float) -> "Price":
        """Return the price with its seconds multiplied by a factor."""
        return Price(self.seconds * factor, self.low * factor, self.high * factor, self.flops)


@dataclass(frozen=True)
class Table:
    """Prices of a workload's kinds.

    Attributes:
        prices: by kind; in units of a reference step if `relative`.
        origin: the file and hash that they come from, for the record.
        why: why results with these prices are provisional, or None if they are not.
        step, torch: hash of the step's code and shapes, and version of torch, when measured.
    """

    prices: dict[str, Price]
    origin: str
    why: str | None = None
    relative: bool = False
    step: str = ""
    torch: str = ""

    @property
    def provisional(self) -> bool:
        """Return True if results with these prices are provisional."""
        return self.why is not None

    @property
    def name(self) -> str:
        """Return the name of the file that the table was read from."""
        return self.origin.split()[0]

    def of(self, kind: str) -> Price:
        """Return the price of a kind; raise UserError if there is none."""
        if kind not in self.prices:
            raise UserError(
                f"kind {kind!r} has no price in {self.origin}",
                f"priced: {', '.join(sorted(self.prices))}",
                "declare it in the submission's PASSES, or measure it: harness calibrate",
            )
        return self.prices[kind]

    def at(self, step_seconds: float) -> "Table":
        """Return the table in seconds, if a reference step takes `step_seconds` on this machine."""
        if not self.relative:
            return self
        prices = {kind: price.times(step_seconds) for kind, price in self.prices.items()}
        return replace(self, prices=prices, relative=False)


def counted(counts: dict[str, int], table: Table) -> float:
    """Return the reference seconds of counted passes."""
    return sum(n * table.of(kind).seconds for kind, n in sorted(counts.items()))


def flops(counts: dict[str, int], table: Table) -> float | None:
    """Return the FLOPs of counted passes; None if those of one kind are unknown."""
    each = [(n, table.of(kind).flops) for kind, n in counts.items()]
    known = [n * f for n, f in each if f is not None]
    return float(sum(known)) if len(known) == len(each) else None


def recorded_table(record: dict) -> Table:
    """Return the prices that a record states."""
    priced = {kind: Price(**price) for kind, price in record["priced"].items()}
    return Table(priced, record["prices"], record["provisional_why"])


def horizon_of(steps: int, passes: dict[str, float], table: Table) -> int:
    """Return the number of steps that a budget buys a submission.

    The horizon depends on counted passes alone. So it, and with it every schedule, is exact, and
    training never depends on a clock. Work outside the passes is charged to the time instead.

    Args:
        steps: the budget, in reference steps.
        passes: the number of passes of each kind that the submission makes in one of its steps.
    """
    if passes == {REFERENCE_STEP: 1}:
        return steps
    per_step = sum(n * table.of(kind).seconds for kind, n in passes.items())
    if per_step <= 0:
        raise UserError(f"PASSES {passes} cost nothing", "at least one counted pass per step")
    return max(1, math.floor(steps * table.of(REFERENCE_STEP).seconds / per_step + 1e-9))


def overdrawn(counts: dict[str, int], steps: int, table: Table) -> str | None:
    """Return a message if the passes cost more than a budget of `steps` reference steps.

    Return None if they do not. One pass more than the budget is allowed. A budget buys as many
    passes on several processes as on one, so passes count at their price in one process. Labels
    are charged to the time and not to the budget.
    """
    counts = {alone(kind): n for kind, n in counts.items() if kind != LABEL}
    spent, budget = counted(counts, table), steps * table.of(REFERENCE_STEP).seconds
    if spent <= budget * OVERDRAWN + max((p.seconds for p in table.prices.values()), default=0.0):
        return None
    message = f"its passes cost {spent:.4g} s of a budget of {budget:.4g} s"
    return f"{message}: PASSES declares fewer than were made"


def canonical_passes(passes: dict[str, float], where: str = "PASSES: ") -> dict[str, float]:
    """Return PASSES with canonical names of kinds.

    Args:
        where: where the names were written, for the error.

    Raises:
        UserError: a kind does not exist, or a number of passes is negative or no number.
    """
    for kind, n in passes.items():
        if not isinstance(n, int | float) or not 0 <= n < math.inf:
            raise UserError(f"{where}{n!r} passes of {kind!r}", "numbers from 0 up")
    try:
        return {canonical_kind(kind): n for kind, n in passes.items()}
    except ValueError as error:
        raise UserError(f"{where}{error}") from None


def load_table(path: Path) -> Table | None:
    """Return the price table in `path`, or None if the file does not exist.

    Raises:
        UserError: the table is damaged, or was changed after it was measured.
    """
    if not path.exists():
        return None
    remedy = "restore it from version control, or measure it: harness calibrate"
    try:
        raw = json.loads(path.read_text())
        if raw["schema"] != SCHEMA:
            raise UserError(
                f"price table {path} has schema {raw['schema']}", f"schema {SCHEMA}", remedy
            )
        if raw["hash"] != table_hash(raw):
            raise UserError(
                f"price table {path} was edited: its content does not have its hash", do=remedy
            )
        prices = {kind: _price(entry) for kind, entry in raw["prices"].items()}
        origin, busy = f"{path.name} {raw['hash']}", raw["busy"]
        why = f"its price table was measured on a busy machine: {busy}" if busy else None
        return Table(prices, origin, why, False, raw["step"], raw["machine"]["torch"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"price table {path} is damaged: {error!r}", do=remedy) from None


def _price(entry: dict) -> Price:
    """Return the price in an entry of a table; raise ValueError if it is none."""
    seconds, low, high = numbers = entry["seconds"], entry["low"], entry["high"]
    if not all(type(value) in (int, float) and 0 <= value < math.inf for value in numbers):
        raise ValueError(f"a price of {numbers}")
    return Price(seconds, low, high, entry["flops"])


def table_hash(raw: dict) -> str:
    """Return the hash of a table's content without its hash."""
    return digest(canonical({k: v for k, v in raw.items() if k != "hash"}))[:16]
