"""The figures of a board, drawn by seaborn as SVG: equal records give equal bytes."""

import math
import multiprocessing
import os
import sys
import warnings

from harness.report.board import score
from harness.report.board.fronts import gaps, matrices, pareto, streams
from harness.report.board.panels import at_reference, curves, times
from harness.report.board.rows import Board
from harness.report.board.stats import PENALTY, log_cost
from harness.report.board.style import (
    COLOURS,
    MUTED,
    STYLE,
    legend,
    palette,
    panels,
    plain,
    shown,
    svg,
)

MOST_PROCESSES = 8


def figures(boards: list[Board]) -> list[dict[str, tuple[str, str]]]:
    """SVG and caption of every figure that each board's records allow, by name.

    Where the platform can fork, figures are drawn side by side, one process a core.
    """
    import matplotlib
    import pandas  # noqa: F401 before the fork: once for all
    import seaborn  # noqa: F401

    matplotlib.use("agg")
    jobs = [(i, name) for i in range(len(boards)) for name in FIGURES]
    if sys.platform == "linux":
        context = multiprocessing.get_context("fork")  # boards are inherited, not copied
        cores = min(MOST_PROCESSES, len(os.sched_getaffinity(0)))
        with context.Pool(cores, _drawn_from.extend, (boards,)) as pool:
            drawn = pool.starmap(_figure, jobs, chunksize=1)
    else:
        _drawn_from[:] = boards
        drawn = [_figure(*job) for job in jobs]
    found: list[dict] = [{} for _ in boards]
    for (i, name), picture in zip(jobs, drawn, strict=True):
        if picture is not None:
            found[i][name] = picture, FIGURES[name][1]
    return found


_drawn_from: list[Board] = []  # of a process that draws


def _figure(i: int, name: str) -> str | None:
    """One figure of one board as SVG; None where its records do not allow it."""
    import matplotlib

    board, draw = _drawn_from[i], FIGURES[name][0]
    with matplotlib.rc_context(), warnings.catch_warnings():
        # seaborn's use of matplotlib
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matplotlib.rcdefaults()
        salt = {"svg.hashsalt": f"{board.track}-{board.scale}-{name}"}
        matplotlib.rcParams.update(STYLE | salt)  # type: ignore
        figure = draw(board)
        return None if figure is None else svg(figure)


def ranking(board: Board):
    """The ranked rows: score and interval, best first."""
    rows = [(row, row.headline) for row in board.rows if row.rank and row.headline]
    if len(rows) < 2:
        return None
    figure, (axes,) = panels(1, 6.4, 0.7 + 0.26 * len(rows))
    for i, (_, h) in enumerate(rows):
        axes.plot([h.low or h.score, h.high or h.score], [i, i], color=COLOURS[0], linewidth=2.2)
        axes.plot([h.score], [i], "o", color=COLOURS[0], markersize=5.5)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.axvline(1, color=COLOURS[1], linewidth=1.1, dashes=(4, 2))
    axes.set_yticks(range(len(rows)), [f"{plain(r.name)}  {r.rank_text()}" for r, _ in rows])
    axes.set(xlabel="speed-up over the frozen reference", ylim=(len(rows) - 0.5, -0.5))
    return figure


def profiles(board: Board):
    """AlgoPerf's profile: share of workloads solved within tau times the best time, tau to 4."""
    import pandas
    import seaborn

    bases = [w.key for w in board.bases]
    known = {row.name: {k: c.time for k, c in row.cells.items()} for row in board.rows}
    r = score.ratios(known, bases) if bases else {}
    rows = shown(board)
    some = any(math.isfinite(x) for values in r.values() for x in values)
    if len(rows) < 2 or len(bases) < 2 or not some:
        return None
    taus = [1 + 3 * i / 120 for i in range(121)]
    data = [
        (tau, share, plain(row.name))
        for row in rows
        for tau, share in zip(taus, score.profile(r[row.name], taus))
    ]
    figure, (axes,) = panels(1, 6.4, 3.4)
    seaborn.lineplot(
        pandas.DataFrame(data, columns=["tau", "share", "submission"]),
        x="tau",
        y="share",
        hue="submission",
        palette=palette(rows),
        drawstyle="steps-post",
        ax=axes,
        linewidth=1.8,
    )
    axes.set(
        xlim=(1, 4),
        ylim=(-0.02, 1.02),
        xlabel="times the fastest submission's time",
        ylabel="share of workloads solved",
    )
    legend(axes, rows)
    return figure


def tuning(board: Board):
    """Score against the number of tuning trials: the expected best of k of those that were run."""
    import pandas
    import seaborn

    references, rows = board.references, shown(board)
    data = []
    for row in rows:
        trials = {
            k: [run.time for run in row.choices[k].tuning] for k in references if k in row.choices
        }
        most = min(map(len, trials.values()), default=0)
        if most < 2 or len(trials) < len(references):
            continue
        for k in range(1, most + 1):
            costs = [score.best_of(t, references[key], k) for key, t in trials.items()]
            data.append((k, math.exp(-sum(costs) / len(trials)), plain(row.name)))
    if not data:
        return None
    figure, (axes,) = panels(1, 6.4, 3.4)
    seaborn.lineplot(
        pandas.DataFrame(data, columns=["k", "score", "submission"]),
        x="k",
        y="score",
        hue="submission",
        palette=palette(rows),
        ax=axes,
        linewidth=1.8,
        estimator=None,
    )
    axes.set(xlabel="tuning trials a workload", ylabel="speed-up over the reference")
    axes.axhline(1, color=MUTED, linewidth=1, dashes=(4, 2))
    axes.xaxis.get_major_locator().set_params(integer=True)
    legend(axes, rows)
    return figure


def heat(board: Board):
    """Speed-up of each submission on each workload."""
    import numpy
    import seaborn

    rows, workloads = shown(board), [w for w in board.workloads if w.time]
    if len(workloads) < 2 or not rows:
        return None
    values = numpy.full((len(rows), len(workloads)), math.nan)
    words = [["" for _ in workloads] for _ in rows]
    for i, row in enumerate(rows):
        for j, workload in enumerate(workloads):
            if workload.time and workload.key in row.cells:
                time = row.cells[workload.key].time
                values[i, j] = -float(log_cost(time, workload.time)) / math.log(2)
                words[i][j] = f"{workload.time / time:.2f}" if math.isfinite(time) else "miss"
    figure, (axes,) = panels(1, 1.6 + 0.8 * len(workloads), 0.8 + 0.26 * len(rows))
    limit = math.log2(PENALTY) / 2
    seaborn.heatmap(
        values,
        annot=numpy.array(words),
        fmt="",
        cmap=seaborn.diverging_palette(25, 250, s=80, l=55, as_cmap=True),
        center=0,
        vmin=-limit,
        vmax=limit,
        cbar=False,
        linewidths=2,
        linecolor="none",
        ax=axes,
        annot_kws={"fontsize": 8},
    )
    axes.set_xticks(
        [j + 0.5 for j in range(len(workloads))],
        [plain(w.key.rsplit(".", 1)[0] if w.key.count(".") == 1 else w.key) for w in workloads],
        rotation=30,
        ha="right",
    )
    axes.set_yticks(
        [i + 0.5 for i in range(len(rows))], [plain(row.name) for row in rows], rotation=0
    )
    axes.spines[:].set_visible(False)
    return figure


FIGURES = {
    "ranking": (
        ranking,
        "Ranked submissions with their places: speed-up and its 95 % interval.",
    ),
    "heat": (
        heat,
        "Speed-up over the frozen reference, median over seeds (1.00 is the reference; miss: "
        "the goal was not reached).",
    ),
    "times": (
        times,
        "Time to the goal: median over seeds, line from the fastest to the slowest seed; "
        "dashed, the frozen reference. A submission that missed with some seed shows how many "
        "reached.",
    ),
    "curves": (
        curves,
        "Learning curves against reference seconds, the median seed of each submission; dashed,"
        " the goal.",
    ),
    "at_reference": (
        at_reference,
        "Loss at a fixed budget: the goal's metric at the moment when the frozen reference "
        "reaches the goal (a run that was there before ends at the goal).",
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
        pareto,
        "Each run at its end: the goal's metric against its constraint; line, the runs that no "
        "other beats in both; dashed, the goal.",
    ),
    "streams": (
        streams,
        "Streams: metrics by their definitions (convention strict), median and range over seeds.",
    ),
    "gaps": (
        gaps,
        "Quality on each task (light: the first) against steps, the median seed of the first "
        "submissions; a fall after a switch (dotted) is the stability gap.",
    ),
    "matrices": (
        matrices,
        "Quality on each task after training on each, the median seed of the first submissions.",
    ),
}
