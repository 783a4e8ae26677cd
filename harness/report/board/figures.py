"""The figures of a board: each a function that returns a figure, or None without its records."""

import math

from harness.report.board import fronts, panels, score
from harness.report.board.by_target import by_target
from harness.report.board.rows import Board
from harness.report.board.stats import PENALTY
from harness.report.board.style import (
    BOTTOM,
    MOST,
    TOP,
    colours_of,
    grid,
    heatmap,
    label_of,
    plain,
    room,
    shown,
)
from harness.report.palette import PALE, REFERENCE_LINE, RUN


def ranking(board: Board):
    """Draw the ranked rows: score and interval, best first."""
    rows = [(row, row.headline) for row in board.rows if row.rank and row.headline][:MOST]
    if len(rows) < 2:
        return None

    def draw(axes, _) -> None:
        for i, (_, h) in enumerate(rows):
            ends = [h.low or h.score, h.high or h.score]
            axes.plot(ends, [i, i], color=RUN, linewidth=2.2)
            axes.plot([h.score], [i], "o", color=RUN, markersize=5.5)
        _octaves(axes, [x for _, h in rows for x in (h.low, h.high, h.score) if x])
        axes.axvline(1, **REFERENCE_LINE)
        names = [f"{plain(r.name)}  {r.rank_text()}" for r, _ in rows]
        axes.set_yticks(range(len(rows)), names, fontsize=8)
        axes.set(xlabel="speed-up over the frozen reference", ylim=(len(rows) - 0.5, -0.5))

    left = room(f"{row.name}  {row.rank_text()}" for row, _ in rows)
    return grid([board], draw, 6.4, TOP + BOTTOM + 0.27 * len(rows), left=left)


def _octaves(axes, values: list[float]) -> None:
    """Set a logarithmic axis with a tick at round factors: 0.5×, 0.7×, 1×, 1.4×, 2×."""
    low, high = min(*values, 1.0) / 1.1, max(*values, 1.0) * 1.1
    step = 1 if math.log2(high / low) > 2 else 2
    first, last = math.floor(step * math.log2(low)), math.ceil(step * math.log2(high))
    ticks = [2 ** (n / step) for n in range(first, last + 1)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{tick:.2g}×" for tick in ticks])
    axes.set_xticks([], minor=True)


def _lines(
    board: Board,
    lines: list[tuple[str, list]],
    x: str,
    y: str,
    places: dict,
    style: str = "default",
):
    """Draw one line a submission with the names below; the first ones have colours.

    Args:
        places: limits or ticks, as for `Axes.set`.
        style: how points are joined, as for matplotlib's `drawstyle`.
    """
    names = [name for name, _ in lines]
    colours = colours_of(names)

    def draw(axes, _) -> None:
        for name, points in reversed(lines):
            colour = colours[name]
            width, order = (0.8, 1) if colour == PALE else (1.8, 3)
            axes.plot(*zip(*points), color=colour, linewidth=width, zorder=order, drawstyle=style)
        axes.set(xlabel=x, ylabel=y, **places)

    return grid([board], draw, 6.4, 3.5, legend=names)


def profiles(board: Board):
    """Draw AlgoPerf's profile: share of workloads solved within tau times the best, tau to 4."""
    bases = [w.key for w in board.bases]
    known = {row.name: {k: c.time for k, c in row.cells.items()} for row in board.rows}
    r = score.ratios(known, bases) if bases else {}
    rows = [row for row in shown(board) if any(math.isfinite(x) for x in r.get(row.name, ()))]
    if len(rows) < 2 or len(bases) < 2:
        return None
    taus = [1 + 3 * i / 120 for i in range(121)]
    lines = [(plain(row.name), list(zip(taus, score.profile(r[row.name], taus)))) for row in rows]
    x, y = "times the fastest submission's time", "share of workloads solved"
    return _lines(board, lines, x, y, {"xlim": (1, 4), "ylim": (-0.02, 1.02)}, "steps-post")


def tuning(board: Board):
    """Draw the score against the number of tuning trials: the expected best of k trials."""
    references, lines = board.references, []
    for row in shown(board):
        trials = {
            k: [run.interpolated for run in row.choices[k].tuning]
            for k in references
            if k in row.choices
        }
        most = min(map(len, trials.values()), default=0)
        if most < 2 or len(trials) < len(references):
            continue
        points = []
        for k in range(1, most + 1):
            costs = [score.best_of(t, references[key], k) for key, t in trials.items()]
            points.append((k, math.exp(-sum(costs) / len(trials))))
        lines.append((plain(row.name), points))
    if len(lines) < 2:
        return None
    most = max(points[-1][0] for _, points in lines)
    ticks = {"xticks": range(1, most + 1, 1 + most // 12)}
    return _lines(board, lines, "tuning trials a workload", "speed-up over the reference", ticks)


def heat(board: Board):
    """Draw the speed-up of each submission on each workload, of those raced on several."""
    import matplotlib
    import numpy

    workloads = [w for w in board.workloads if w.time and raced_by(board, w.key)]
    keys = {w.key for w in workloads}
    rows = [row for row in board.rows if len(keys & row.cells.keys()) > 1][:MOST]
    if len(workloads) < 2 or len(rows) < 2:
        return None
    workloads = [w for w in workloads if any(w.key in row.cells for row in rows)]
    values = numpy.full((len(rows), len(workloads)), math.nan)
    words = [["" for _ in workloads] for _ in rows]
    for i, row in enumerate(rows):
        for j, workload in enumerate(workloads):
            if workload.time and workload.key in row.cells:
                cell = row.cells[workload.key]
                cost = cell.cost(workload.time)
                values[i, j] = -cost / math.log(2)
                words[i][j] = f"{math.exp(-cost):.2f}" if cell.met else "miss"

    def draw(axes, _) -> None:
        limit = math.log2(PENALTY)
        heatmap(axes, values, words, matplotlib.colormaps["RdBu"], (-limit, limit))
        names = [label_of(w, board) for w in workloads]
        places = [j + 0.5 for j in range(len(workloads))]
        axes.set_xticks(places, names, rotation=30, ha="right", rotation_mode="anchor")
        places = [i + 0.5 for i in range(len(rows))]
        axes.set_yticks(places, [plain(row.name) for row in rows], fontsize=8)

    left, high = room(row.name for row in rows), TOP + 0.9 + 0.27 * len(rows)
    return grid([board], draw, left + 0.15 + 0.78 * len(workloads), high, left=left, below=0.9)


def raced_by(board: Board, key: str) -> bool:
    """Return True if a submission of the board has a cell on the workload."""
    return any(key in row.cells for row in board.rows)


FIGURES = {
    "ranking": (
        ranking,
        "Ranked submissions with their places: speed-up and its 95 % interval; dotted, the frozen "
        "reference.",
    ),
    "runs": (
        panels.every_run,
        "Your runs: each race that was read from a run folder, seeds of one point in one colour; "
        "dotted, the frozen reference; dashed, the goal.",
    ),
    "heat": (
        heat,
        "Speed-up over the frozen reference of submissions raced on several workloads, mean over "
        "seeds (1.00 is the reference; miss: the goal was not reached).",
    ),
    "times": (
        panels.times,
        "Time to the goal: median over the seeds that reached it, line from the fastest to the "
        "slowest of them; dotted, the frozen reference. 2/3: two of three seeds reached the goal; "
        "submissions that never did are not shown.",
    ),
    "curves": (
        panels.curves,
        "Learning curves, the median seed of each submission: the five best have names, others are "
        "pale; dotted, the frozen reference; dashed, the goal.",
    ),
    "at_reference": (
        panels.at_reference,
        "The goal's metric at the moment when the frozen reference reaches the goal, median and "
        "range over seeds (a run that was there before ends at the goal); dashed, the goal.",
    ),
    "by_target": (
        by_target,
        "Speed-up over the frozen reference as the target grows harder to the right, from the "
        "reference's value at 40 % of its budget to its last; runs that went to the end of the "
        "budget. Dotted, the reference and the goal; where lines cross, the order depends on it.",
    ),
    "profiles": (
        profiles,
        "Performance profiles: the share of workloads solved within a factor of the fastest "
        "submission's time.",
    ),
    "tuning": (
        tuning,
        "Score against tuning effort: expected speed-up of the best of k tuning trials, over "
        "all subsets of the trials that were run.",
    ),
    "pareto": (
        fronts.pareto,
        "Each run at its end: the goal's metric against its constraint; line, the runs that no "
        "other beats in both; dashed, the goal.",
    ),
    "streams": (
        fronts.streams,
        "Streams: metrics by their definitions (convention strict), median and range over seeds.",
    ),
    "gaps": (
        fronts.gaps,
        "Quality on each task (light: the first) against steps, the median seed of the first "
        "submissions; a fall after a switch (dotted) is the stability gap.",
    ),
    "matrices": (
        fronts.matrices,
        "Quality on each task after training on each, the median seed of the first submissions.",
    ),
}
