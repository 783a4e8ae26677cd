"""Early ending of trials that, by the curves of earlier finished trials, cannot reach the goal.

The rule. For each earlier finished trial of the same workload version (it reached the goal, or
spent its budget), take how far its best value so far still fell from a share p of its budget to its
end:

    fall(p) = max over trials, and over shares q >= p, of  best up to q - best at the end

A trial is hopeless at p when it would miss the target even if it fell MARGIN times as far as any of
them did from there on: best up to p - MARGIN * fall(p) > target, at TWICE evaluations in a row, not
before EARLIEST of its budget, and only when at least LEAST earlier trials are known. For a metric
that must rise, read rise for fall. A hopeless trial is a miss. Goals of several conditions are left
alone: what a method is worth before its constraint holds says little about after (on
`compress_gpt2` the rule would have ended 4 of 15 trials that reached the goal).

`measure` counts on recorded curves how often the rule would have ended a trial that did reach its
goal, each judged by the trials of the other submissions alone, as if its own were new.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.catalog import discover
from harness.catalog.definition import Definition
from harness.catalog.goal import primary
from harness.records import log, run_folder
from harness.system.files import BadFile, read_json

EARLIEST = 0.25
MARGIN = 1.5
TWICE = 2
LEAST = 12
COUNTED = ("reached", "out_of_budget")
Curve = Sequence[tuple[float, float]]  # (share of the budget, value of the goal's first metric)


@dataclass(frozen=True)
class Bound:
    """What earlier trials say: the falls from each share on, the target, its direction."""

    falls: tuple[tuple[float, float], ...]
    target: float
    sign: float
    trials: int

    def fall(self, share: float) -> float:
        """The largest fall any earlier trial made from `share` or later to its end."""
        return next((fall for at, fall in reversed(self.falls) if at <= share + 1e-9), math.inf)

    def told(self, curve: Curve) -> str | None:
        """Why a trial with this curve so far is hopeless; None if it is not."""
        points = _best_so_far(curve, self.sign)[-TWICE:]
        if len(points) < TWICE or points[0][0] < EARLIEST:
            return None
        short = [
            value - MARGIN * self.fall(share) > self.sign * self.target for share, value in points
        ]
        if not all(short):
            return None
        share, value = points[-1]
        missing = value - self.sign * self.target
        return (
            f"at {share:.0%} of the budget it is {missing:.4g} short of the target; "
            f"none of {self.trials} earlier trials came more than {self.fall(share):.4g} further "
            "from there"
        )


def _best_so_far(curve: Curve, sign: float) -> list[tuple[float, float]]:
    best, found = math.inf, []
    for share, value in curve:
        if value is not None and math.isfinite(value):
            best = min(best, sign * value)
        found.append((share, best))
    return found


def bound(curves: Sequence[Curve], goal: dict) -> Bound | None:
    """What these finished trials say of the next; None while they are too few, and of goals of
    several conditions.
    """
    if len(goal) > 1:
        return None
    _, direction, target = primary(goal)
    sign = 1.0 if direction == "at_most" else -1.0
    falls: dict[float, float] = {}
    known = [
        points
        for curve in curves
        if (points := _best_so_far(curve, sign)) and math.isfinite(points[-1][1])
    ]
    if len(known) < LEAST:
        return None
    for points in known:
        for share, value in points:
            if math.isfinite(value):
                falls[share] = max(falls.get(share, 0.0), value - points[-1][1])
    most, cumulative = 0.0, []
    for share in sorted(falls, reverse=True):
        most = max(most, falls[share])
        cumulative.append((share, most))
    return Bound(tuple(reversed(cumulative)), target, sign, len(known))


def judge(definition: Definition, results: Path) -> Bound | None:
    """The bound for a new trial: from the runs in `results` and the committed compact records."""
    curves = dict(_recorded(definition, results))
    return bound([curves[run_id] for run_id in sorted(curves)], definition.block["goal"])


def _recorded(definition: Definition, results: Path) -> Iterator[tuple[str, Curve]]:
    from harness.records.compact import read_compact

    for place in {results, discover.ROOT / "results"}:
        path = place / "board" / f"{definition.key}.jsonl"
        for run in read_compact(path, []) if path.exists() else []:
            if run.record["workload_hash"] == definition.hash and run.record["outcome"] in COUNTED:
                yield run.record["run_id"], shares(run.curve, run.record["horizon"])
    metric = primary(definition.block["goal"])[0]
    for folder in (results / "runs" / definition.name).glob("*/*"):
        try:
            known = read_json(folder / "run.json")
            if known["workload_hash"] != definition.hash or known["outcome"] not in COUNTED:
                continue
            rows = run_folder.evaluations(log.rows(folder / "log.jsonl"))
        except (OSError, BadFile, KeyError, TypeError):
            continue
        yield (
            known["run_id"],
            [(row["progress"], row["metrics"].get(metric, math.nan)) for row in rows],
        )


def shares(curve: Sequence, horizon: int) -> Curve:
    """A recorded curve of (step, seconds, value) by share of the budget."""
    return [(step / horizon, math.nan if value is None else value) for step, _, value in curve]
