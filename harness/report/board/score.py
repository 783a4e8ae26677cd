"""Scores as pure functions of times to goal: the headline against frozen references, AlgoPerf's.

Headline: geometric mean over the board's workloads of reference time / time, a miss (and anything
slower) counted as four times the reference's time. It depends on a submission's own records and the
frozen references alone. docs/score.md works every number out by hand.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.report.board.stats import (
    PENALTY,
    Cell,
    Comparison,
    compare,
    log_cost,
    quantiles,
    resample,
    widened,
)

TAU = 4.0  # r_max, the end of AlgoPerf's performance profile
GRID = 100  # its points in AlgoPerf's code


@dataclass(frozen=True)
class Headline:
    """A geometric-mean speed-up over the frozen references; no interval if a unit stands alone."""

    score: float
    low: float | None
    high: float | None
    workloads: int
    misses: int


def speedup(time: float, reference: float) -> float:
    """Reference time over time, not below 1 / PENALTY; a miss is an infinite time."""
    return math.exp(-float(log_cost(time, reference)))


def headline(cells: Mapping[str, Cell], references: Mapping[str, float]) -> Headline | None:
    """Return the headline over the workloads of `cells` that have a reference; None without one."""
    keys = sorted(cells.keys() & references.keys())
    if not keys:
        return None
    costs = [cells[k].cost(references[k]) for k in keys]
    score = math.exp(-sum(costs) / len(keys))
    each = np.array([resample(cells[k], references[k], k) for k in keys])
    draws = widened(each, [cells[k].n for k in keys], costs)
    misses = sum(not cells[k].met for k in keys)
    if np.isnan(draws).any():
        return Headline(score, None, None, len(keys), misses)
    low, high = quantiles(np.exp(-draws))
    return Headline(score, min(low, score), max(high, score), len(keys), misses)


def pairs(
    boards: Mapping[str, Mapping[str, Cell]], references: Mapping[str, float]
) -> dict[tuple[str, str], Comparison]:
    """Return every ordered pair of submissions compared."""
    names = sorted(boards)
    found = {}
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            c = compare(boards[a], boards[b], references)
            turned = {"faster": "slower", "slower": "faster"}.get(c.verdict, c.verdict)
            found[a, b] = c
            low, high = (1 / c.high, 1 / c.low) if c.low and c.high else (None, None)
            found[b, a] = Comparison(1 / c.ratio, low, high, turned, c.more, c.paired, c.workloads)
    return found


def ranks(
    names: Sequence[str], compared: Mapping[tuple[str, str], Comparison]
) -> dict[str, tuple[int, int]]:
    """Best and worst rank that the pairwise intervals leave open; a tie where they differ."""
    found = {}
    for name in names:
        verdicts = [compared[name, other].verdict for other in names if other != name]
        found[name] = (1 + verdicts.count("slower"), len(names) - verdicts.count("faster"))
    return found


def best_of(times: Sequence[float], reference: float, k: int) -> float:
    """Expected log cost of the best of k of these trials, drawn without replacement (exact)."""
    costs = sorted(float(log_cost(t, reference)) for t in times)
    n = len(costs)
    assert 1 <= k <= n
    weights = [math.comb(n - 1 - i, k - 1) / math.comb(n, k) for i in range(n)]
    return sum(w * c for w, c in zip(weights, costs, strict=True))


# submission -> workload -> seconds, inf (or absent) a miss
Times = Mapping[str, Mapping[str, float]]


def ratios(
    times: Times, bases: Sequence[str], gates: Mapping[str, str] | None = None
) -> dict[str, list[float]]:
    """AlgoPerf's performance ratios r = t / min over submissions, after its gating; inf a miss.

    Args:
        bases: the workloads that count, their number being the score's denominator.
        gates: {base: held-out variant}; without, every base counts by itself (rules since v0.6).

    In AlgoPerf's order: a variant is a miss where its base is one; a cell beyond TAU times its
    column's smallest is a miss; a base is a miss where its variant is one; then the ratios.
    """
    gates = gates or {}
    table = {
        s: {c: _time(row.get(c)) for c in (*bases, *gates.values())} for s, row in times.items()
    }
    for row in table.values():
        for base, variant in gates.items():
            if math.isinf(row[base]):
                row[variant] = math.inf
    for column in (*bases, *gates.values()):
        limit = TAU * min((row[column] for row in table.values()), default=math.inf)
        for row in table.values():
            if row[column] > limit:
                row[column] = math.inf
    for row in table.values():
        for base, variant in gates.items():
            if math.isinf(row[variant]):
                row[base] = math.inf
    least = {base: min((row[base] for row in table.values()), default=math.inf) for base in bases}
    return {
        s: [row[b] / least[b] if math.isfinite(row[b]) else math.inf for b in bases]
        for s, row in table.items()
    }


def _time(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value


def profile(r: Sequence[float], taus: Sequence[float]) -> list[float]:
    """Share of workloads with ratio at most tau, for each tau."""
    return [sum(x <= tau for x in r) / len(r) for tau in taus]


def algoperf(r: Sequence[float]) -> float:
    """AlgoPerf's score of a submission's ratios in closed form: mean of (TAU - r) / (TAU - 1)."""
    return sum(max(0.0, TAU - x) for x in r) / (TAU - 1) / len(r)


def algoperf_grid(r: Sequence[float]) -> float:
    """Return the same on AlgoPerf's grid with the trapezoid rule, which is up to 0.0015 away."""
    taus = np.linspace(1.0, TAU, GRID)
    return float(np.trapezoid(profile(r, list(taus)), taus)) / (TAU - 1)


__all__ = [
    "PENALTY",
    "TAU",
    "Headline",
    "algoperf",
    "algoperf_grid",
    "best_of",
    "headline",
    "pairs",
    "profile",
    "ranks",
    "ratios",
    "speedup",
]
