"""The privacy that noisy gradients spend: ε at a given δ, and the noise that a bound on ε needs.

A tree aggregation (arXiv 2103.00039) is a Gaussian mechanism for each level of its tree, because an
example is in one node of each; it gains nothing from sampling.

Each noisy sum over a Poisson sample is a subsampled Gaussian mechanism. Its Rényi divergence at a
whole order is closed (Mironov, Talwar and Zhang, arXiv 1908.10530, section 3.3), divergences of
calls add up, and the conversion to ε is that of Canonne, Kamath and Steinke (arXiv 2004.00010,
proposition 12).
"""

import math
from functools import cache

ORDERS = range(2, 257)
# Stands for no bound at all; a metric that is not finite would count as divergence.
UNBOUNDED = 1e6


def divergence(rate: float, noise: float, order: int) -> float:
    """Return the Rényi divergence of one subsampled Gaussian mechanism at a whole order from 2.

    Args:
        rate: the chance of an example to be in a sample, in (0, 1].
        noise: standard deviation of the noise over the sensitivity.
    """
    # Not a power, which raises where no float holds it.
    twice = 2 * noise * noise
    if not twice:
        return math.inf
    if rate == 1:
        return order / twice
    terms = [
        math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        + k * math.log(rate) + (order - k) * math.log1p(-rate) + k * (k - 1) / twice
        for k in range(order + 1)
    ]  # fmt: skip
    largest = max(terms)
    return (largest + math.log(sum(math.exp(t - largest) for t in terms))) / (order - 1)


def leaves_of(rate: float) -> int:
    """Return the number of batches of an epoch at a sampling rate, the leaves of its tree."""
    return math.ceil(1 / rate - 1e-9)


def tree_mechanisms(calls: int, rate: float) -> int:
    """Return how many Gaussian mechanisms see an example in so many calls of a tree aggregation.

    An epoch of n = 1/rate batches has a tree of its own, with ⌊log₂ n⌋ + 1 levels that are used.
    """
    leaves = leaves_of(rate)
    return math.ceil(calls / leaves) * leaves.bit_length()


def epsilon(
    calls: dict[float, int], rate: float, delta: float, trees: dict[float, int] | None = None
) -> float:
    """Return ε of so many calls at each noise multiplier; UNBOUNDED if one had no noise.

    Args:
        calls: number of calls by noise multiplier, each on a Poisson sample.
        rate: the sampling rate of all of them.
        trees: number of calls of a tree aggregation by its noise multiplier, of which it has one.
    """
    made = {noise: count for noise, count in calls.items() if count}
    grown = {noise: tree_mechanisms(n, rate) for noise, n in (trees or {}).items() if n}
    if not made and not grown:
        return 0.0
    if min([*made, *grown]) <= 0 or len(grown) > 1:
        return UNBOUNDED
    bounds = []
    for order in ORDERS:
        total = sum(n * divergence(rate, noise, order) for noise, n in made.items())
        total += sum(n * divergence(1, noise, order) for noise, n in grown.items())
        bounds.append(total + math.log1p(-1 / order) - math.log(delta * order) / (order - 1))
    # A sum that no float holds bounds nothing.
    return min([UNBOUNDED, *(max(0.0, bound) for bound in bounds if math.isfinite(bound))])


@cache
def noise_for(bound: float, calls: int, rate: float, delta: float, tree: bool = False) -> float:
    """Return a noise multiplier at which so many calls spend at most ε = `bound`.

    It is at most a thousandth above the least one.

    Args:
        tree: the calls are of a tree aggregation.

    Raises:
        ValueError: no multiplier up to 1,000 is enough.
    """

    def spends(noise: float) -> float:
        at = {noise: calls}
        return epsilon({}, rate, delta, at) if tree else epsilon(at, rate, delta)

    low, high = 0.0, 1000.0
    if spends(high) > bound:
        raise ValueError(f"no noise up to {high:g} keeps {calls} calls within ε = {bound}")
    while high - low > 5e-4 * high:
        middle = (low + high) / 2
        fits = spends(middle) <= bound
        low, high = (low, middle) if fits else (middle, high)
    return high


def spent(block: dict, report: dict) -> float:
    """Return ε of what a runner reports of its ledger (harness/train/ledger.py).

    Args:
        block: the workload's numbers, with `private.rate` and `private.delta`.
        report: `exposed`, and `spent`, the number of noisy sums by noise multiplier.
    """
    if report["exposed"]:
        return UNBOUNDED
    private = block["private"]
    calls = {float(noise): count for noise, count in report["spent"].items()}
    trees = {float(noise): count for noise, count in report.get("trees", {}).items()}
    return epsilon(calls, private["rate"], private["delta"], trees)
