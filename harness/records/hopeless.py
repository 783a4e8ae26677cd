"""End trials early that cannot reach the goal, by the curves of earlier finished trials.

The rule compares a trial with earlier trials of the same workload version that reached the goal or
used all their budget. It takes how far the best value so far of each still fell, from a share p of
its budget to its end:

    fall(p) = max over trials, and over shares q >= p, of  best up to q - best at the end

A trial is hopeless at p if it would miss the target even after MARGIN times that fall:

    best up to p - MARGIN * fall(p) > target

This must hold at TWICE evaluations in a row, not before EARLIEST of the budget. The rule needs at
least LEAST earlier trials. For a metric that must rise, read rise for fall. A hopeless trial is a
miss. The rule does not apply to goals of several conditions, since the value of a method before its
constraint holds says little about the value after it (on `compress_gpt2` the rule would have ended
4 of 15 trials that reached the goal).

benches/hopeless.py counts on recorded curves how often the rule would have ended a trial that did
reach its goal.
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
    """The limits that earlier trials set.

    Attributes:
        falls: (share of the budget, largest fall from there on), in order.
        target: the goal's bound.
        sign: 1 if the metric must fall, -1 if it must rise.
        trials: number of earlier trials.
    """

    falls: tuple[tuple[float, float], ...]
    target: float
    sign: float
    trials: int

    def fall(self, share: float) -> float:
        """Return the largest fall of an earlier trial from `share` or later to its end."""
        return next((fall for at, fall in reversed(self.falls) if at <= share + 1e-9), math.inf)

    def reason(self, curve: Curve) -> str | None:
        """Return why a trial with this curve so far is hopeless, or None if it is not."""
        points = _best_so_far(curve, self.sign)[-TWICE:]
        if len(points) < TWICE or points[0][0] < EARLIEST:
            return None
        hopeless_at = [
            value - MARGIN * self.fall(share) > self.sign * self.target for share, value in points
        ]
        if not all(hopeless_at):
            return None
        share, value = points[-1]
        missing = value - self.sign * self.target
        return (
            f"at {share:.0%} of the budget it is {missing:.4g} short of the target; "
            f"none of {self.trials} earlier trials came more than {self.fall(share):.4g} further "
            "from there"
        )


def _best_so_far(curve: Curve, sign: float) -> list[tuple[float, float]]:
    """Return (share, best value up to there) of a curve, with the sign that makes less better."""
    best, points = math.inf, []
    for share, value in curve:
        if value is not None and math.isfinite(value):
            best = min(best, sign * value)
        points.append((share, best))
    return points


def bound(curves: Sequence[Curve], goal: dict) -> Bound | None:
    """Return the limits that these finished trials set.

    Return None if there are too few of them, or if the goal has several conditions.
    """
    if len(goal) > 1:
        return None
    _, direction, target = primary(goal)
    sign = 1.0 if direction == "at_most" else -1.0
    falls: dict[float, float] = {}
    finished = [
        points
        for curve in curves
        if (points := _best_so_far(curve, sign)) and math.isfinite(points[-1][1])
    ]
    if len(finished) < LEAST:
        return None
    for points in finished:
        for share, value in points:
            if math.isfinite(value):
                falls[share] = max(falls.get(share, 0.0), value - points[-1][1])
    most, cumulative = 0.0, []
    for share in sorted(falls, reverse=True):
        most = max(most, falls[share])
        cumulative.append((share, most))
    return Bound(tuple(reversed(cumulative)), target, sign, len(finished))


def bound_for(definition: Definition, results: Path) -> Bound | None:
    """Return the limits for a new trial, from the runs in `results` and the committed records."""
    curves = dict(_recorded(definition, results))
    return bound([curves[run_id] for run_id in sorted(curves)], definition.block["goal"])


def _recorded(definition: Definition, results: Path) -> Iterator[tuple[str, Curve]]:
    """Yield the run id and the curve of each finished trial of this workload version."""
    from harness.records.compact import read_compact

    for place in {results, discover.ROOT / "results"}:
        path = place / "board" / f"{definition.key}.jsonl"
        for run in read_compact(path, []) if path.exists() else []:
            if run.record["workload_hash"] == definition.hash and run.record["outcome"] in COUNTED:
                yield run.record["run_id"], shares(run.curve, run.record["horizon"])
    metric = primary(definition.block["goal"])[0]
    for folder in (results / "runs" / definition.name).glob("*/*"):
        try:
            record = read_json(folder / "run.json")
            if record["workload_hash"] != definition.hash or record["outcome"] not in COUNTED:
                continue
            rows = run_folder.evaluations(log.rows(folder / "log.jsonl"))
        except (OSError, BadFile, KeyError, TypeError):
            continue
        yield (
            record["run_id"],
            [(row["progress"], row["metrics"].get(metric, math.nan)) for row in rows],
        )


def shares(curve: Sequence, horizon: int) -> Curve:
    """Return a recorded curve of (step, seconds, value) by share of the budget."""
    return [(step / horizon, math.nan if value is None else value) for step, _, value in curve]
