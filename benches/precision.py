"""Half-widths of the 95 % interval of a speed-up, by the seeds of committed records.

    python benches/precision.py results
    python benches/precision.py results --cost

For each workload of the core of a board: the scatter of the logarithm of the time over the seeds of
one point, and that of the paired difference of two submissions, each pooled over the submissions
whose seeds all reached the goal; and the half-width that follows from it by Student's t at 3, 5 and
10 seeds. What was not measured, for want of such submissions, is a dash.

With --cost: the seeds whose interval of a pair is at most 5 % to each side, and the CPU seconds of
the runner that they take one submission, from the mean of the recorded runs. Tuning is not in it.
"""

import math
import statistics
import sys
from collections.abc import Iterable, Iterator
from itertools import combinations

from harness.records.collect import Collection, collect
from harness.records.references import references
from harness.report.board.board import boards
from harness.report.board.rows import Board, Workload
from harness.report.board.stats import half_width

SEEDS = (3, 5, 10)
APART = 0.05  # what --cost separates
MOST_SEEDS = 1000


def scatters(board: Board, workload: Workload) -> tuple[list[float], list[float]]:
    """Return the variances over seeds of single submissions, and those of paired differences."""
    if not workload.time:
        return [], []
    cells = [row.cells[workload.key] for row in board.rows if workload.key in row.cells]
    costs = [
        cell.unit_costs(workload.time)
        for cell in cells
        if cell.evidence == "seeds"
        and cell.n > 2
        and all(math.isfinite(sample.time) for study in cell.studies for sample in study)
    ]
    single = [statistics.variance(each.values()) for each in costs]
    paired = [
        statistics.variance([a[unit] - b[unit] for unit in a])
        for a, b in combinations(costs, 2)
        if a.keys() == b.keys()
    ]
    return single, paired


def widths(variances: list[float]) -> Iterable[str]:
    """Return the half-width in per cent at each number of seeds of SEEDS."""
    if not variances:
        return ["–" for _ in SEEDS]
    return [f"{100 * width(variances, n):.0f} %" for n in SEEDS]


def width(variances: list[float], seeds: int) -> float:
    """Return the half-width of the interval of a speed-up, as a share of it."""
    return math.expm1(half_width(seeds - 1, statistics.mean(variances) / seeds))


def seeds_needed(variances: list[float]) -> int | None:
    """Return the fewest seeds whose half-width is at most APART."""
    enough = (n for n in range(2, MOST_SEEDS) if width(variances, n) <= APART)
    return next(enough, None) if variances else None


def cores(found: Collection, paths: list[str]) -> Iterator[tuple[Board, Workload]]:
    """Yield the base workloads of the boards that have a core, each with its board."""
    for board in boards(found, references(paths)):
        if any(workload.core for workload in board.bases):
            for workload in board.bases:
                yield board, workload


def cost(found: Collection, paths: list[str]) -> list[str]:
    """Return the rows of the table of --cost as Markdown."""
    lines = [
        f"| workload | runs | CPU s a run | seeds for {100 * APART:.0f} % | CPU s a submission |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for board, workload in cores(found, paths):
        fresh = (r for r in found.runs if r.key == workload.key and r.record["trial"] is None)
        spent = [r.record["cpu_seconds"] for r in fresh if r.record["outcome"] == "reached"]
        needed = seeds_needed(scatters(board, workload)[1])
        if needed and spent:
            mean = statistics.mean(spent)
            numbers = f"{len(spent)} | {mean:.3g} | {needed} | {needed * mean:.3g}"
            lines.append(f"| {workload.key} | {numbers} |")
    return lines


def table(found: Collection, paths: list[str]) -> list[str]:
    """Return the rows of the table as Markdown."""
    columns = [f"{kind}, {n} seeds" for kind in ("one", "a pair") for n in SEEDS]
    lines = [
        f"| workload | submissions | pairs | {' | '.join(columns)} |",
        f"| --- | {' | '.join(['---:'] * (2 + len(columns)))} |",
    ]
    for board, workload in cores(found, paths):
        single, paired = scatters(board, workload)
        values = [workload.key, str(len(single)), str(len(paired))]
        lines.append(f"| {' | '.join([*values, *widths(single), *widths(paired)])} |")
    return lines


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--cost"]
    write = cost if "--cost" in sys.argv else table
    places = given or ["results"]
    print("\n".join(write(collect(places), places)))
