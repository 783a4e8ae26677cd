"""Write how well a ranking at one scale foretells the ranking at another, from recorded runs.

    python scripts/transfer.py [RESULTS ...] [--write]

For each workload and each pair of its scales: the submissions with records at both, and the rank
correlations of their times (Spearman's rho with a 95 % bootstrap interval over submissions, and
Kendall's tau). A submission's time is the median over the seeds of its best point, as `harness
report` takes it; runs that miss the goal are slower than all that reach it, and equal to each
other. Fewer than COUNT common submissions give no correlation, and a line that says so. --write
puts the tables into docs/transfer.md.

A second part is made of results/transfer/*.json, which benches/transfer.py writes: methods whose
learning rate was tuned at both scales, by their last values of the metric.
"""

import argparse
import itertools
import math
import random
import statistics
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau, rankdata, spearmanr

from harness.catalog.discover import ROOT
from harness.errors import UserError
from harness.records.collect import collect
from harness.records.run import RecordedRun
from harness.system.files import atomic_write, read_json

SCALES = ("mini", "small", "base", "full")
# Common submissions below which a rank correlation says nothing.
COUNT = 5
DRAWS = 2000
COLUMNS = ("workload", "scales", "submissions", "Spearman", "95 %", "Kendall", "same best")
HEAD = """# Does a ranking transfer?

A race at a small scale is worth its minutes if it foretells the ranking at a larger one. The table
has the rank correlation between the scales of each workload, over the submissions that have records
at both. `python scripts/transfer.py --write` makes this page from `results/board/`.

"""

ENDS = """
## The last value, with a tuned learning rate

Goals at `small` are provisional, so times to them say little yet. This part compares the last value
of the metric instead, as the mean over seeds (least to greatest in brackets). Each method has the
best of the listed learning rates at each scale, by one further seed; its other hyperparameters have
the defaults of SPACE. `python -m benches.transfer` made these trials.

"""


def time_of(runs: Sequence[RecordedRun]) -> float:
    """Return a submission's time: the least of its points' medians over seeds; inf for a miss.

    Of points with several seeds and points with one, those with several count.
    """
    points: dict[str, list[RecordedRun]] = defaultdict(list)
    for run in runs:
        points[run.point].append(run)
    most = max(len({run.record["seed"] for run in group}) for group in points.values())
    several = [
        group
        for group in points.values()
        if most == 1 or len({run.record["seed"] for run in group}) > 1
    ]
    return min(statistics.median_low(run.interpolated for run in group) for group in several)


def times(runs: Sequence[RecordedRun]) -> dict[tuple[str, str], dict[str, float]]:
    """Return the times by workload and scale, then submission. Variants are left out."""
    groups: dict[tuple, list[RecordedRun]] = defaultdict(list)
    for run in runs:
        if not run.record["variant"] and not run.version:
            record = run.record
            groups[record["workload"], record["scale"], record["submission"]].append(run)
    result: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for (workload, scale, submission), group in groups.items():
        result[workload, scale][submission] = time_of(group)
    return result


def correlation(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Return Spearman's rho and Kendall's tau; NaN where one side is all equal."""
    finite = _finite(first), _finite(second)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(spearmanr(*finite).statistic), float(kendalltau(*finite).statistic)


def _finite(values: Sequence[float]) -> list[float]:
    """Return the values with the largest float for inf, so that infinite ones tie."""
    return [min(value, sys.float_info.max) for value in values]


def interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of Spearman's rho over the submissions."""
    rng = random.Random(0)
    drawn = [rng.choices(range(len(first)), k=len(first)) for _ in range(DRAWS)]
    ranks = [rankdata(np.array(_finite(side))[drawn], axis=1) for side in (first, second)]
    x, y = (side - side.mean(axis=1, keepdims=True) for side in ranks)
    with np.errstate(invalid="ignore"):
        rho = (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    values = sorted(rho[np.isfinite(rho)].tolist())
    if not values:
        return math.nan, math.nan
    return values[int(0.025 * len(values))], values[int(0.975 * (len(values) - 1))]


def rows(found: dict[tuple[str, str], dict[str, float]]) -> list[dict[str, str]]:
    """Return a line for each workload and pair of its scales."""
    lines = []
    for workload in sorted({name for name, _ in found}):
        scales = [scale for scale in SCALES if (workload, scale) in found]
        for small, large in itertools.combinations(scales, 2):
            first, second = found[workload, small], found[workload, large]
            common = sorted(first.keys() & second.keys())
            line = dict.fromkeys(COLUMNS, "")
            line |= {"workload": workload, "scales": f"{small}, {large}"}
            line["submissions"] = str(len(common))
            if len(common) >= COUNT:
                sides = [first[name] for name in common], [second[name] for name in common]
                rho, tau = correlation(*sides)
                low, high = interval(*sides)
                line |= {"Spearman": _short(rho), "95 %": f"{_short(low)} to {_short(high)}"}
                best = [min(common, key=side.__getitem__) for side in (first, second)]
                line |= {"Kendall": _short(tau), "same best": "yes" if len({*best}) == 1 else "no"}
            else:
                line["Spearman"] = f"too few: at least {COUNT}"
            lines.append(line)
    return lines


def _short(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "none"


def table(lines: list[dict[str, str]]) -> str:
    """Return the lines as a Markdown table, or a sentence if there is none."""
    if not lines:
        return "No workload has records at two scales yet.\n"
    text = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    text += ["| " + " | ".join(line[c] for c in COLUMNS) + " |" for line in lines]
    return "\n".join(text) + "\n"


def ends(measured: dict) -> str:
    """Return the tables of one workload whose methods trained to the end at two scales.

    Args:
        measured: what benches/transfer.py has written.
    """
    methods, metric = measured["methods"], measured["metric"]
    scales = list(next(iter(methods.values())))
    sign = 1.0 if measured["least"] else -1.0
    means = {
        name: [_mean(each[scale]["seeds"], sign) for scale in scales]
        for name, each in methods.items()
    }
    shifts = [math.log(each[scales[1]]["lr"] / each[scales[0]]["lr"]) for each in methods.values()]
    sides = [[sign * pair[i] for pair in means.values()] for i in (0, 1)]
    share = "the budget" if measured["budget"] is None else f"{measured['budget']:g} of the budget"
    text = (
        f"`{measured['workload']}`, {scales[0]} and {scales[1]}, {share}, "
        f"{measured['seeds']} seeds, "
        f"learning rates {', '.join(f'{rate:g}' for rate in measured['rates'])}:\n\n"
    )
    header = ["method", *(f"{metric}, {s}" for s in scales), *(f"lr, {s}" for s in scales)]
    lines = [f"| {' | '.join(header)} |", f"| --- |{' ---: |' * 4}"]
    for name, each in sorted(methods.items(), key=lambda item: sign * means[item[0]][0]):
        values = [_spread(each[scale]["seeds"]) for scale in scales]
        rates = [f"{each[scale]['lr']:g}" for scale in scales]
        lines.append(f"| {' | '.join([name, *values, *rates])} |")
    text += "\n".join(lines) + "\n\n"
    if len(methods) < COUNT:
        return text + f"Too few methods for a correlation: at least {COUNT}.\n"
    rho, tau = correlation(*sides)
    low, high = interval(*sides)
    shift = math.exp(statistics.mean(shifts))
    best = [min(means, key=lambda name: sign * means[name][i]) for i in (0, 1)]
    return text + (
        f"Spearman's rho {_short(rho)} ({_short(low)} to {_short(high)}), Kendall's tau "
        f"{_short(tau)}. The best is {best[0]} at {scales[0]} and {best[1]} at {scales[1]}. "
        f"The best learning rate at {scales[1]} is {shift:.2f} times that at {scales[0]} "
        f"(geometric mean); "
        f"it is the same rate for {sum(s == 0 for s in shifts)} of {len(shifts)} methods.\n"
    )


def _mean(values: list[float | None], sign: float) -> float:
    """Return the mean; the worst number there is if a trial diverged."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else sign * math.inf


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return f"{len(values) - len(known)} of {len(values)} diverged"
    return f"{statistics.mean(known):.4g} ({min(known):.4g} to {max(known):.4g})"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="*", default=["results"])
    parser.add_argument("--write", action="store_true", help="docs/transfer.md")
    asked = parser.parse_args()
    text = table(rows(times(collect([Path(path) for path in asked.results]).runs)))
    measured = sorted((ROOT / "results" / "transfer").glob("*.json"))
    text += ENDS * bool(measured) + "\n".join(ends(read_json(path)) for path in measured)
    print(text, end="")
    if asked.write:
        atomic_write(ROOT / "docs" / "transfer.md", HEAD + text)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"transfer: {error}", file=sys.stderr)
        sys.exit(2)
