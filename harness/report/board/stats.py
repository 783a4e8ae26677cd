"""Statistics of times to goal: means over seeds with misses, bootstrap, comparisons.

Times are interpolated between two evaluations (harness/records/judging.py). A miss is an infinite
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
    """One trial's time to the goal in reference seconds; inf if it missed.

    Attributes:
        unit: the seed, or the number of the study.
    """

    unit: int
    time: float


@dataclass(frozen=True)
class Cell:
    """What one submission showed on one workload.

    Attributes:
        studies: the samples of each study, in order of unit.
        evidence: "seeds" (one point raced over seeds), "tuning" (each study's best trial) or
            "unfit" (it fails whenever it is raced there).
        reference: the reference's time on the workload, or None.
    """

    studies: tuple[tuple[Sample, ...], ...]
    evidence: str = "seeds"
    reference: float | None = None

    @property
    def met(self) -> bool:
        """True if the median seed of the median study reached the goal."""
        return math.isfinite(median([median([s.time for s in study]) for study in self.studies]))

    @property
    def time(self) -> float:
        """The median over studies of the geometric mean over seeds; inf if the goal was not met.

        A miss counts as PENALTY times the reference's time. Without a reference nothing is known
        that a miss could count as, so the median over seeds takes the mean's place.
        """
        if not self.met:
            return math.inf
        if self.reference is None:
            return median([median([s.time for s in study]) for study in self.studies])
        return self.reference * math.exp(self.cost(self.reference))

    def cost(self, reference: float) -> float:
        """Return the logarithm of the time over the reference's, misses counted as PENALTY."""
        return float(_log_median([_mean(costs) for costs in self._costs(reference)]))

    @property
    def n(self) -> int:
        """The number of independent units."""
        return len(self.units())

    def units(self) -> list[int]:
        """Return the number of each seed, or of each study where there are several."""
        if len(self.studies) == 1:
            return [sample.unit for sample in self.studies[0]]
        return list(range(len(self.studies)))

    def unit_costs(self, reference: float) -> dict[int, float]:
        """Return the log cost of each seed, or the mean of each study where there are several."""
        costs = self._costs(reference)
        values = costs[0] if len(costs) == 1 else [_mean(study) for study in costs]
        return dict(zip(self.units(), values, strict=True))

    def _costs(self, reference: float) -> list[list[float]]:
        """Return the log cost of every sample, by study."""
        return [[float(log_cost(s.time, reference)) for s in study] for study in self.studies]


def median(times: Sequence[float]) -> float:
    """Return the median; of an even number the mean of the middle two, a miss if either is one."""
    ordered = sorted(times)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def log_cost(times, reference: float):
    """Logarithm of time over the reference's, misses and everything slower counted as PENALTY."""
    with np.errstate(invalid="ignore"):
        return np.log(np.minimum(np.asarray(times, float), PENALTY * reference) / reference)


def resample(cell: Cell, reference: float, key: str, draws: int = DRAWS) -> np.ndarray:
    """Bootstrap a cell's log cost, shape [draws]: studies, then seeds within.

    The random numbers depend on `key` and the units alone, so that submissions raced with the same
    seeds are resampled together and no bystander matters. Deviations are widened by
    sqrt(n / (n - 1)), by which the bootstrap of n units is too narrow (Hesterberg 2015,
    arXiv 1411.5279, section 3.2). With one unit there is nothing to resample: NaN.
    """
    if cell.n < 2:
        return np.full(draws, math.nan)
    shape = [[s.unit for s in study] for study in cell.studies]
    seed = int.from_bytes(hashlib.sha256(f"{key}/{shape}".encode()).digest()[:8], "big")
    random = np.random.default_rng(seed)
    slots = len(cell.studies)
    # [study, draw, slot]
    columns = np.empty((slots, draws, slots))
    for i, study in enumerate(cell.studies):
        costs = log_cost([s.time for s in study], reference)
        columns[i] = costs[random.integers(len(costs), size=(draws, slots, len(costs)))].mean(-1)
    chosen = random.integers(slots, size=(draws, slots))
    values = _log_median(columns[chosen, np.arange(draws)[:, None], np.arange(slots)[None]])
    centre, ceiling = cell.cost(reference), math.log(PENALTY)
    return np.minimum(centre + (values - centre) * math.sqrt(cell.n / (cell.n - 1)), ceiling)


def widened(draws: np.ndarray, units: Sequence[int], costs: Sequence[float]) -> np.ndarray:
    """Return the mean over workloads of their bootstrap, widened from the normal to Student's t.

    Few units also misjudge their own scatter (Hesterberg 2015, section 3.3). The degrees of freedom
    are Satterthwaite's.

    Args:
        draws: [workload, draw].
        units: the number of units of each workload.
        costs: the log cost of each.
    """
    variances = draws.var(axis=1)
    mean, centre = draws.mean(axis=0), float(np.mean(costs))
    if not variances.sum() > 0 or min(units) < 2:
        return mean
    parts = sum(v**2 / (n - 1) for v, n in zip(variances, units, strict=True))
    freedom = float(variances.sum() ** 2 / parts)
    factor = half_width(freedom, 1.0) / half_width(math.inf, 1.0)
    return np.minimum(centre + (mean - centre) * factor, math.log(PENALTY))


def _log_median(costs):
    """Return the logarithm of the median of times whose logarithms are given, on the last axis."""
    return np.log(np.median(np.exp(costs), axis=-1))


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
    units). Workloads are averaged; degrees of freedom by Satterthwaite.
    Percentile bootstrap is not used here: with three seeds it calls one pair in four different.
    """
    keys = sorted(first.keys() & second.keys() & references.keys())
    if not keys:
        return Comparison(math.nan, None, None, "not separable", None, False, 0)
    total, seeds, satterthwaite, paired, smallest = 0.0, 0.0, 0.0, True, math.inf
    for key in keys:
        costs = [cell.unit_costs(references[key]) for cell in (first[key], second[key])]
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
    n = len(keys)
    mean = total / n
    if smallest < 2:
        return Comparison(math.exp(mean), None, None, "not separable", None, paired, n)
    freedom = seeds**2 / satterthwaite if satterthwaite else math.inf
    half = half_width(freedom, seeds) / n
    # Where all differences are equal, rounding is all that is left of them.
    separable = abs(mean) > half + 1e-9
    verdict = "not separable" if not separable else "faster" if mean > 0 else "slower"
    more = 0 if separable else _more(abs(mean) * n, seeds, freedom, int(smallest))
    return Comparison(
        math.exp(mean), math.exp(mean - half), math.exp(mean + half), verdict, more, paired, n
    )


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def half_width(freedom: float, seeds: float) -> float:
    """Return half the interval of a sum whose variance over seeds is `seeds`."""
    from scipy.special import ndtri, stdtrit

    p = (1 + LEVEL) / 2
    t = float(ndtri(p)) if math.isinf(freedom) else float(stdtrit(freedom, p))
    return t * math.sqrt(seeds)


def _more(difference: float, seeds: float, freedom: float, now: int) -> int | None:
    """Return the number of further seeds that would separate, were the present estimates true."""
    if not difference:
        return None
    for n in range(now + 1, MOST_SEEDS):
        if difference > half_width(freedom * (n - 1) / (now - 1), seeds * now / n):
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
