"""Check a price table for values that cannot be right, such as a typing error.

The checks miss some errors (docs/clock.md has the count). The table's hash shows every edit.
"""

from fractions import Fraction
from itertools import pairwise

from harness.catalog.kinds import REFERENCE_STEP, canonical_kind, parse_kind

EACH = "per_example_gradients"
# operation: smallest and largest ratio of its price to that of forward_backward
RATIOS = {"forward": (0.2, 0.55), "hvp": (1.5, 8.0), EACH: (0.8, 6.0)}
# Ratio that noise and cache effects may cause between similar shapes.
MARGIN = 1.15
# A step with fewer FLOPs a second waits for memory, and a part of it may fit a cache. Its margin
# is LOOSE.
STREAMED, LOOSE = 1e10, 1.35
# Seconds per FLOP of a kind, in those of forward_backward: at most this; the second is for a step
# below SHORT seconds, whose time is calls rather than arithmetic.
PER_FLOP, PER_CALL, SHORT = 3.0, 6.0, 1e-2
# Factor on the largest ratio of per_example_gradients for such a step, in seconds and in seconds
# per FLOP: 600 examples of two_layer_relu cost 11 times their mean's gradient, 200 of fed 24 times.
MATERIALISED = 5.0
# Up to this batch ratio shapes count as similar. Beyond it the margin is OUTGROWN.
CACHED, OUTGROWN = 4, 1.6


def lint(table: dict) -> list[str]:
    """Return what cannot be right in a table, one sentence each; empty if nothing is wrong."""
    rows, problems, lines = table["prices"], [], {}
    margin = _margin(rows)
    for kind, row in rows.items():
        if not 0 < row["low"] <= row["seconds"] <= row["high"]:
            problems.append(f"{kind}: {row['seconds']:.4g} s is not within its interval")
        operation, batch, depth = parse_kind(kind)
        for axis, value, fixed in (("batch", batch, depth), ("depth", depth, batch)):
            lines.setdefault((operation, axis, fixed), []).append((value, row["seconds"], kind))
        base = rows.get(canonical_kind("forward_backward" + kind[len(operation) :]))
        if operation in RATIOS and base:
            least, most = RATIOS[operation]
            share = row["seconds"] / base["seconds"]
            if operation == EACH:
                # This kind may compute many more FLOPs than the gradient of a mean.
                most *= max(1.0, (row["flops"] or 0) / (base["flops"] or 1))
                # In a short step its time is memory: a gradient for each example is written.
                most *= MATERIALISED if base["seconds"] < SHORT else 1.0
            if operation == "forward" and row["flops"] and row["flops"] == base["flops"]:
                # The gradient is zero: the backward pass has no arithmetic of its own.
                most = 1.0
            if not least <= share <= most:
                problems.append(f"{kind} is {share:.3g} of forward_backward, not {least} to {most}")
    for (_, axis, _), points in lines.items():
        problems += _line(axis, sorted(points), margin)
    split = table["checks"].get("split", 1.0)
    if not 1 / margin <= split <= margin:
        problems.append(f"two accumulated halves cost {split:.3g} of two half steps")
    problems += _per_flop(rows)
    return problems


def _margin(rows: dict) -> float:
    """Return the ratio by which the prices of similar shapes may differ from proportion."""
    base = rows.get(REFERENCE_STEP)
    if not base or not base.get("flops") or base["seconds"] < SHORT:
        return MARGIN
    return MARGIN if base["flops"] / base["seconds"] > STREAMED else LOOSE


def _line(axis: str, points: list[tuple[Fraction, float, str]], margin: float) -> list[str]:
    """Return where prices along batch or depth are not on a line, or grow faster than they should.

    They may grow slightly faster than in proportion, since large batches do not fit the caches: 20
    times gpt2 mini's batch costs 27 times as much.
    """
    problems = []
    for (x, seconds, kind), (x2, seconds2, kind2) in pairwise(points):
        if (
            not seconds
            < seconds2
            < seconds * float(x2 / x) * (margin if x2 <= CACHED else OUTGROWN)
        ):
            problems.append(
                f"{kind2} costs {seconds2 / seconds:.3g} of {kind}, "
                f"{float(x2 / x):.3g} times the {axis}"
            )
    points = [p for p in points if p[0] <= CACHED]
    if len(points) > 2:
        intercept, slope = _fitted([(float(x), seconds) for x, seconds, _ in points])
        for x, seconds, kind in points:
            if abs(slope * float(x) + intercept - seconds) > (margin - 1) * seconds:
                problems.append(f"{kind} is off the straight line in {axis}")
    return problems


def _fitted(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Return intercept and slope of the line with the least squared relative errors.

    Prices err in proportion to themselves; with plain squares the largest batch alone would say
    where the line passes a quarter of a batch.
    """
    weights = [1 / seconds**2 for _, seconds in points]
    x_mean = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / sum(weights)
    y_mean = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / sum(weights)
    pairs = [(w, x - x_mean, y - y_mean) for w, (x, y) in zip(weights, points, strict=True)]
    slope = sum(w * x * y for w, x, y in pairs) / sum(w * x * x for w, x, _ in pairs)
    return y_mean - slope * x_mean, slope


def _per_flop(rows: dict) -> list[str]:
    """Return the kinds whose seconds per FLOP are too far from those of forward_backward."""
    base = rows.get(REFERENCE_STEP)
    if not base or not base.get("flops"):
        return []
    unit, problems = base["seconds"] / base["flops"], []
    for kind, row in rows.items():
        share = row["seconds"] / row["flops"] / unit if row.get("flops") else 1.0
        least, most = _shares(kind, base["seconds"] < SHORT)
        if not least < share < most:
            problems.append(f"{kind} costs {share:.3g} times forward_backward's seconds per FLOP")
    return problems


def _shares(kind: str, short: bool) -> tuple[float, float]:
    """Return between what a kind's seconds per FLOP may lie, in those of forward_backward."""
    operation, batch, depth = parse_kind(kind)
    least, most = (1 / PER_CALL, PER_CALL) if short else (1 / PER_FLOP, PER_FLOP)
    if operation == EACH:
        least, most = 0.0, most * (MATERIALISED if short else 1.0)
    if short:
        # A step that is calls alone costs the same for any part or multiple of the batch.
        calls = 1 / float(batch * depth)
        least, most = min(least, calls), max(most, calls)
    return least, most
