"""Statistics of times to goal: medians with misses, bootstrap of studies and seeds, comparisons.

A time is known up to the evaluation grid: the goal was met in (after, time]. A miss is an infinite
time. Units are seeds, or studies where a submission was tuned more than once on a workload; units
of equal number are paired across submissions, because they share model, data order and randomness.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95  # of every interval
DRAWS = 2000  # bootstrap resamples
PENALTY = 4.0  # a miss, and anything slower, counts as this many times the reference's time
MOST_SEEDS = 1000  # beyond, "how many more seeds" is not a useful answer


@dataclass(frozen=True)
class Sample:
    """One trial's time to goal in reference seconds: met in (after, time]; inf if missed."""

    unit: int  # seed, or number of the trial
    time: float
    after: float = 0.0


@dataclass(frozen=True)
class Cell:
    """What one submission showed on one workload: the samples of each study, in order of unit.

    `evidence` is "seeds" (one point re-run over seeds), "tuning" (each study's best trial), or
    "unfit" (it fails whenever it is raced there).
    """

    studies: tuple[tuple[Sample, ...], ...]
    evidence: str = "seeds"

    @property
    def time(self) -> float:
        """Median over studies of the median over seeds; inf where that is a miss."""
        return median([median([s.time for s in study]) for study in self.studies])

    @property
    def n(self) -> int:
        """The number of independent units."""
        return len(self.units())

    def units(self) -> dict[int, float]:
        """Time of each unit: of each seed, or of each study where there are several."""
        if len(self.studies) == 1:
            return {s.unit: s.time for s in self.studies[0]}
        return {i: median([s.time for s in study]) for i, study in enumerate(self.studies)}

    @property
    def grid(self) -> float:
        """Width of the censoring interval as a share of the time: median over those that met it."""
        widths = [
            (s.time - s.after) / s.time
            for study in self.studies
            for s in study
            if math.isfinite(s.time)
        ]
        return float(np.median(widths)) if widths else 0.0


def median(times: Sequence[float]) -> float:
    """The median; of an even number the mean of the middle two, a miss if either is one."""
    ordered = sorted(times)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def log_cost(times, reference: float):
    """Logarithm of time over the reference's, misses and everything slower counted as PENALTY."""
    with np.errstate(invalid="ignore"):
        return np.log(np.minimum(np.asarray(times, float), PENALTY * reference) / reference)


def resample(cell: Cell, reference: float, key: str, draws: int = DRAWS) -> np.ndarray:
    """Bootstrap of a cell's log cost, shape [draws]: studies, then seeds within, then the grid.

    The random numbers depend on `key` and the units alone, so that submissions raced with the same
    seeds are resampled together and no bystander matters. Deviations are widened by
    sqrt(n / (n - 1)), by which the bootstrap of n units is too narrow (Hesterberg 2015,
    arXiv 1411.5279, section 3.2); the unknown place of the crossing between two evaluations is one
    uniform draw that all units share. With one unit there is nothing to resample: NaN.
    """
    if cell.n < 2:
        return np.full(draws, math.nan)
    shape = [[s.unit for s in study] for study in cell.studies]
    seed = int.from_bytes(hashlib.sha256(f"{key}/{shape}".encode()).digest()[:8], "big")
    random = np.random.default_rng(seed)
    slots = len(cell.studies)
    columns = np.empty((slots, draws, slots))  # [study, draw, slot]
    for i, study in enumerate(cell.studies):
        times = np.array([s.time for s in study])
        picked = times[random.integers(len(times), size=(draws, slots, len(times)))]
        columns[i] = _medians(picked)
    chosen = random.integers(slots, size=(draws, slots))
    values = _medians(columns[chosen, np.arange(draws)[:, None], np.arange(slots)[None]])
    shift = (random.random(draws) - 0.5) * cell.grid
    centre, ceiling = float(log_cost(cell.time, reference)), math.log(PENALTY)
    finite = np.isfinite(values)
    spread = log_cost(values, reference) + np.where(finite, np.log1p(shift), 0.0) - centre
    return np.minimum(centre + spread * math.sqrt(cell.n / (cell.n - 1)), ceiling)


def _medians(values: np.ndarray) -> np.ndarray:
    """`median` along the last axis; inf among the middle two gives inf."""
    ordered = np.sort(values, axis=-1)
    middle = ordered.shape[-1] // 2
    return (
        ordered[..., middle]
        if ordered.shape[-1] % 2
        else (ordered[..., middle - 1] + ordered[..., middle]) / 2
    )


def quantiles(values: np.ndarray) -> tuple[float, float]:
    """Ends of the LEVEL interval of bootstrap values."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """How many times faster the first submission is than the second, and how sure that is.

    verdict: "faster", "slower" or "not separable" (which includes: no interval, one unit).
    more: further seeds after which the present difference would be separable; 0 if it is, None if
        no reasonable number would do (or nothing is known).
    """

    ratio: float
    low: float | None
    high: float | None
    verdict: str
    more: int | None
    paired: bool
    workloads: int


def compare(
    first: Mapping[str, Cell], second: Mapping[str, Cell], references: Mapping[str, float]
) -> Comparison:
    """Compare two submissions over the workloads both have, by t intervals of mean log ratios.

    Per workload: the mean over units of log(time of second / time of first), misses counted as
    PENALTY times the reference; its variance is that of the paired differences (Welch's for other
    units) plus the grid's: (q1^2 + q2^2) / 12 for cells q wide, which all seeds share, so it does
    not shrink with their number. Workloads are averaged; degrees of freedom by Satterthwaite, the
    normal quantile for the grid's part.
    Percentile bootstrap is not used here: with three seeds it calls one pair in four different.
    """
    keys = sorted(first.keys() & second.keys() & references.keys())
    if not keys:
        return Comparison(math.nan, None, None, "not separable", None, False, 0)
    total, seeds, grid, satterthwaite, paired, smallest = 0.0, 0.0, 0.0, 0.0, True, math.inf
    for key in keys:
        a, b, reference = first[key], second[key], references[key]
        costs = [
            {u: float(log_cost(t, reference)) for u, t in cell.units().items()} for cell in (a, b)
        ]
        total += _mean(costs[1].values()) - _mean(costs[0].values())
        if costs[0].keys() == costs[1].keys():
            parts = [[costs[1][u] - costs[0][u] for u in costs[0]]]
        else:
            parts, paired = [list(c.values()) for c in costs], False
        for values in parts:
            smallest = min(smallest, len(values))
            if len(values) > 1:
                mean = _mean(values)
                variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)
                seeds += variance
                satterthwaite += variance**2 / (len(values) - 1)
        grid += (a.grid**2 + b.grid**2) / 12
    n = len(keys)
    mean = total / n
    if smallest < 2:
        return Comparison(math.exp(mean), None, None, "not separable", None, paired, n)
    freedom = seeds**2 / satterthwaite if satterthwaite else math.inf
    half = _half(freedom, seeds, grid) / n
    verdict = "not separable" if abs(mean) <= half else "faster" if mean > 0 else "slower"
    more = (
        0
        if verdict != "not separable"
        else _more(abs(mean) * n, seeds, grid, freedom, int(smallest))
    )
    return Comparison(
        math.exp(mean), math.exp(mean - half), math.exp(mean + half), verdict, more, paired, n
    )


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def _half(freedom: float, seeds: float, grid: float) -> float:
    """Half the interval: Student's quantile for the seeds' variance, the normal for the grid's."""
    from scipy.special import ndtri, stdtrit

    p = (1 + LEVEL) / 2
    z = float(ndtri(p))
    t = z if math.isinf(freedom) else float(stdtrit(freedom, p))
    return math.sqrt(t * t * seeds + z * z * grid)


def _more(difference: float, seeds: float, grid: float, freedom: float, now: int) -> int | None:
    """Further seeds after which the interval would leave out 1, were the present estimates true."""
    for n in range(now + 1, MOST_SEEDS):
        if difference > _half(freedom * (n - 1) / (now - 1), seeds * now / n, grid):
            return n - now
    return None


def claim(
    values: Sequence[float], target: float, direction: str, sigma: float | None = None
) -> float:
    """p-value of "the mean is beyond the target" (the speedruns' one-sided test), 1.0 if it is not.

    With `sigma`, the known standard deviation over seeds, a z-test: (target - mean) sqrt(n) / sigma
    (modded-nanogpt, track 3); without, Student's one-sample test (track 1), which needs two values.
    """
    from scipy.special import ndtr, stdtr

    n = len(values)
    sign = 1.0 if direction == "at_most" else -1.0
    gap = sign * (target - _mean(values)) if n else math.nan
    if not math.isfinite(gap) or (sigma is None and n < 2):
        return 1.0
    if sigma is not None:
        return float(ndtr(-gap * math.sqrt(n) / sigma))
    spread = float(np.std(values, ddof=1))
    if spread == 0:
        return 0.0 if gap > 0 else 1.0
    return float(stdtr(n - 1, -gap * math.sqrt(n) / spread))
