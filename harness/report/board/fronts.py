"""Figures of constraints and streams: Pareto fronts, stability gaps, matrices of tasks."""

import math
from collections.abc import Sequence

from harness.records.run import RecordedRun
from harness.report.board.rows import CONSTRAINED, Board, Row, Workload, direction_of
from harness.report.board.style import (
    BOTTOM,
    MOST,
    TOP,
    colours_of,
    grid,
    heatmap,
    label_of,
    log_axis,
    plain,
    raced,
    room,
    runs_of,
)
from harness.report.palette import GOAL_LINE, INK, MUTED, SERIES, spans_decades

SUBMISSIONS = 3  # of a stream in figures with a panel each
TICKS = 10  # of an axis of tasks at most
STREAM_METRICS = (
    "average",
    "learning",
    "anytime",
    "forgetting",
    "minimum",
    "worst_case",
    "gap_depth",
    "gap_recovery",
)


def pareto(board: Board):
    """Draw the goal's metric against each of its constraints: every run, the front of them."""
    items, names = [], []
    constrained = board.track.startswith(CONSTRAINED)
    for workload in board.workloads if constrained else []:
        metric = direction_of(workload)[0]
        for constraint in list(workload.goal)[1:]:
            points = [
                (final[constraint], final[metric], plain(row.name))
                for row in raced(board, workload.key)
                for run, _ in row.choices[workload.key].every
                if _finite(final := run.record.get("final") or {}, constraint, metric)
            ]
            if len({name for _, _, name in points}) > 1:
                items.append((workload, constraint, points))
                names += [name for _, _, name in points]
    if not items:
        return None
    names = list(dict.fromkeys(names))
    colours = colours_of(names)

    def draw(axis, item) -> None:
        workload, constraint, points = item
        metric, direction, target = direction_of(workload)
        rule, bound = next(iter(workload.goal[constraint].items()))
        for x, y, name in points:
            axis.plot([x], [y], "o", color=colours[name], markersize=4.5, markeredgewidth=0)
        line = front([(x, y) for x, y, _ in points], rule == "at_most", direction == "at_most")
        step = "steps-post" if rule == "at_most" else "steps-pre"
        axis.plot(*zip(*line), color=INK, linewidth=1, drawstyle=step, zorder=1)
        axis.axvline(bound, **GOAL_LINE)
        axis.axhline(target, **GOAL_LINE)
        if spans_decades([x for x, _, _ in points] + [bound], rule):
            log_axis(axis, "x")
        axis.set_title(label_of(workload, board), loc="left")
        axis.set_xlabel(constraint.replace("_", " "))
        axis.set_ylabel(metric.replace("_", " "))

    return grid(items, draw, 3.4, 2.7, legend=names, marker="o")


def _finite(values: dict, *names: str) -> bool:
    return all(
        isinstance(values.get(name), int | float) and math.isfinite(values[name]) for name in names
    )


def front(
    points: list[tuple[float, float]], small_x: bool, small_y: bool
) -> list[tuple[float, float]]:
    """Return the points that no other beats in both coordinates, ordered by the first."""
    kept, best = [], math.inf
    for x, y in sorted(
        set(points), key=lambda p: (p[0] if small_x else -p[0], p[1] if small_y else -p[1])
    ):
        if (y if small_y else -y) < best:
            kept.append((x, y))
            best = y if small_y else -y
    return sorted(kept)


def _stream_runs(board: Board) -> list[tuple[Workload, Row, dict]]:
    """Return (workload, row, stream of its median run) of the best submissions of each stream."""
    found = []
    for workload in board.workloads:
        rows = [
            (row, runs)
            for row in raced(board, workload.key)
            if (runs := [run for run in runs_of(row, workload.key) if run.record.get("stream")])
        ]
        sign = -1.0 if direction_of(workload)[1] == "at_least" else 1.0
        rows.sort(key=lambda item: (item[0].cells[workload.key].time, _best(item[1], sign)))
        for row, runs in rows[:SUBMISSIONS]:
            runs.sort(key=lambda run: (run.time, _best([run], sign)))
            found.append((workload, row, runs[len(runs) // 2].record["stream"]))
    return found


def _best(runs: list[RecordedRun], sign: float) -> float:
    """Return the smallest best value of runs, turned so that small is good."""
    values = [next(iter((run.record.get("best") or {}).values()), None) for run in runs]
    return min((sign * v for v in values if v is not None and math.isfinite(v)), default=math.inf)


def streams(board: Board):
    """Draw metrics of streams by their definitions, a panel each; accuracies and losses apart."""
    items = []
    for quality in dict.fromkeys(direction_of(w)[0] for w in board.workloads):
        workloads = [w for w in board.workloads if direction_of(w)[0] == quality]
        for metric in STREAM_METRICS:
            values = {
                (row.name, workload.key): sorted(numbers)
                for workload in workloads
                for row in raced(board, workload.key)
                if (numbers := metric_of(runs_of(row, workload.key), metric))
            }
            if values or any(item[0] == quality for item in items):
                items.append((quality, metric, values))
    if not items:
        return None
    known = {place for _, _, values in items for place in values}
    names: dict[str, list[str]] = {}
    for quality, _, values in items:
        raced_there = {*names.get(quality, ()), *(name for name, _ in values)}
        names[quality] = [row.name for row in board.rows if row.name in raced_there][:MOST]
    keys = {w.key: label_of(w, board) for w in board.workloads if w.key in {k for _, k in known}}
    colours = colours_of(list(keys.values()))

    def draw(axis, item) -> None:
        quality, metric, values = item
        for (name, key), numbers in values.items():
            if name not in names[quality]:
                continue
            place = names[quality].index(name) + 0.6 * (
                (list(keys).index(key) + 0.5) / len(keys) - 0.5
            )
            colour = colours[keys[key]]
            axis.plot([numbers[0], numbers[-1]], [place, place], color=colour, linewidth=1.5)
            axis.plot([numbers[len(numbers) // 2]], [place], "o", color=colour, markersize=3.5)
        axis.set_title(metric.replace("_", " "), loc="left")
        axis.set_xlabel("steps" if metric == "gap_recovery" else quality.replace("_", " "))
        texts = [plain(name) for name in names[quality]]
        axis.set_yticks(range(len(texts)), texts, fontsize=8)
        axis.set_ylim(len(texts) - 0.5, -0.5)

    def height(item) -> float:
        return TOP + BOTTOM + 0.15 + 0.27 * len(names[item[0]])

    left = room(name for group in names.values() for name in group)
    style = {"legend": list(keys.values()), "marker": "o", "left": left, "shared": True}
    return grid(items, draw, 2.2, height, columns=4, **style)


def metric_of(runs: Sequence[RecordedRun], name: str) -> list[float]:
    """Return a stream's metric of each run that has it."""
    tables = [(run.record.get("continual") or {}).get("strict") or {} for run in runs]
    values = [table[name].get("value") for table in tables if name in table]
    return [value for value in values if value is not None and math.isfinite(value)]


def gaps(board: Board):
    """Draw the quality of each task over the stream; a fall after a switch is a gap."""
    import matplotlib

    shades = matplotlib.colormaps["GnBu"]

    def draw(axis, item) -> None:
        workload, row, stream = item
        tasks = max(1, len(stream["groups"]))
        for i, points in enumerate(stream["groups"]):
            line = [(step, value) for step, value in points if value is not None]
            if line:
                colour = SERIES[0] if tasks == 1 else shades(0.4 + 0.6 * i / (tasks - 1))
                axis.plot(*zip(*line), color=colour, linewidth=1.1)
        if len(stream["ends"]) <= 2 * TICKS:
            for end in stream["ends"][:-1]:
                axis.axvline(end, color=MUTED, linewidth=0.7, dashes=(2, 2), zorder=1)
        axis.axhline(direction_of(workload)[2], **GOAL_LINE)
        axis.set_title(f"{label_of(workload, board)}  {plain(row.name)}", loc="left")
        axis.set_xlabel("step")
        axis.set_ylabel(direction_of(workload)[0].replace("_", " "))

    return grid(_stream_runs(board), draw, 3.6, 2.1)


def matrices(board: Board):
    """Draw the quality on each task (columns) after training on each (rows)."""
    import matplotlib
    import numpy

    def draw(axis, item) -> None:
        workload, row, stream = item
        groups = [dict(map(tuple, points)) for points in stream["groups"]]
        ends = stream["ends"]
        if len(ends) > TICKS:  # of a stream whose classes come back: ten points of it
            ends = [ends[round(i)] for i in numpy.linspace(len(ends) / TICKS, len(ends) - 1, TICKS)]
        values = numpy.array(
            [
                [math.nan if group.get(end) is None else group[end] for group in groups]
                for end in ends
            ],
            float,
        )
        small = direction_of(workload)[1] == "at_most"
        words = [[f"{value:.2f}" for value in line] for line in values]
        shades = matplotlib.colormaps["GnBu_r" if small else "GnBu"]
        heatmap(axis, values, words if values.size <= 40 else None, shades, (None, None))
        after = [stream["ends"].index(end) + 1 for end in ends]
        axis.set_xticks(*_ticks(len(groups)), rotation=0)
        axis.set_yticks([i + 0.5 for i in range(len(ends))], after, rotation=0)
        axis.set_title(f"{label_of(workload, board)}  {plain(row.name)}", loc="left")
        axis.set_xlabel("task")
        axis.set_ylabel("after task")

    items = [item for item in _stream_runs(board) if item[2]["groups"] and item[2]["ends"]]
    return grid(items, draw, 3.3, 2.6)


def _ticks(count: int) -> tuple[list[float], list[int]]:
    """Return places and numbers of at most TICKS ticks for tasks that are counted from 1."""
    every = math.ceil(count / TICKS)
    numbers = list(range(1, count + 1, every))
    return [number - 0.5 for number in numbers], numbers
