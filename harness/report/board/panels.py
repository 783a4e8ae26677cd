"""Figures with a panel for each workload: times, the metric at a fixed budget, learning curves."""

import math
from collections.abc import Callable, Sequence

from harness.records.run import tuning_order, varied
from harness.report.board.rows import Board, Row, Workload, direction_of, metric_at
from harness.report.board.style import (
    BOTTOM,
    TOP,
    grid,
    label_of,
    log_axis,
    plain,
    raced,
    room,
    runs_of,
)
from harness.report.palette import (
    FALL,
    GOAL_LINE,
    PALE,
    REFERENCE,
    REFERENCE_LINE,
    RUN,
    SERIES,
    spans_decades,
)
from harness.report.run.frame import name_lines

LINES = 14  # submissions in a panel of dots
NAMED = 5  # curves of a panel with a name and a colour
BEHIND = 25  # pale curves of a panel
LONGEST = 38  # letters of a name beside a panel, as many as every_run has room for
FAR = 20.0  # the largest time over the smallest from which times are on a logarithmic axis
Curve = list[tuple[float, float]]


def times(board: Board):
    """Draw the time to the goal of the submissions that reached it."""

    def values(workload: Workload, row: Row) -> list[float]:
        runs = runs_of(row, workload.key)
        return [run.interpolated for run in runs if math.isfinite(run.time)]

    def note(workload: Workload, row: Row) -> str:
        runs, met = runs_of(row, workload.key), values(workload, row)
        return f"{len(met)}/{len(runs)}" if len(met) < len(runs) else ""

    return _dots(
        board, values, lambda w: w.time, REFERENCE_LINE, lambda w: "reference seconds", note
    )


def at_reference(board: Board):
    """Draw the metric at the moment when the reference reaches the goal."""

    def values(workload: Workload, row: Row) -> list[float]:
        metric = direction_of(workload)[0]
        found = [
            metric_at(run, workload.time)
            if workload.time
            else (run.record.get("final") or {}).get(metric)
            for run in runs_of(row, workload.key)
        ]
        return [value for value in found if value is not None and math.isfinite(value)]

    return _dots(
        board,
        values,
        lambda w: direction_of(w)[2],
        GOAL_LINE,
        lambda w: direction_of(w)[0].replace("_", " "),
        lambda w, row: "",
    )


def _dots(
    board: Board, values: Callable, guide: Callable, line: dict, label: Callable, note: Callable
):
    """Draw a panel a workload: submissions down, the median over runs a dot, their range a line.

    Panels with fewer than two submissions are left out: there is nothing to compare.

    Args:
        values, label, note: of a workload (and a row): its runs' numbers, the axis, a word beside.
        guide, line: of a workload: the number that others are compared with, and its line's style.
    """
    items = []
    for workload in board.workloads:
        rows = [(row, sorted(values(workload, row))) for row in raced(board, workload.key)]
        rows = [(row, numbers) for row, numbers in rows if numbers]
        downwards = direction_of(workload)[1] == "at_least" and line is GOAL_LINE
        rows.sort(key=lambda item: _middle(item[1]), reverse=downwards)
        if len(rows) > 1:
            items.append((workload, rows[:LINES], len(rows)))

    def draw(axis, item) -> None:
        workload, rows, count = item
        for i, (_, numbers) in enumerate(rows):
            axis.plot([numbers[0], numbers[-1]], [i, i], color=RUN, linewidth=2)
            axis.plot([_middle(numbers)], [i], "o", color=RUN, markersize=4.5)
        names = [plain(_with(row.name, note(workload, row))) for row, _ in rows]
        axis.set_yticks(range(len(rows)), names, fontsize=8)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        at = guide(workload)
        if at is not None:
            axis.axvline(at, **line)
        everything = [x for _, numbers in rows for x in numbers] + [at] * (at is not None)
        if min(everything) > 0 and max(everything) > FAR * min(everything):
            log_axis(axis, "x")
        more = f"  (best {len(rows)} of {count})" if count > len(rows) else ""
        axis.set_title(label_of(workload, board) + more, loc="left")
        axis.set_xlabel(label(workload))

    left = room(_with(row.name, note(w, row)) for w, rows, _ in items for row, _ in rows)
    return grid(
        items, draw, left + 2.3, lambda item: TOP + BOTTOM + 0.12 + 0.2 * len(item[1]), left=left
    )


def _with(name: str, note: str) -> str:
    """Return a submission's name with a note."""
    return f"{name}  {note}" if note else name


def _middle(ordered: Sequence[float]) -> float:
    return ordered[len(ordered) // 2]


def curves(board: Board):
    """Draw learning curves: the median seed of each submission, the best ones named.

    Panels with fewer than two submissions are left out: a row's details show its curves.
    """
    items, colours = [], {}
    for workload in board.workloads:
        lines = _curves(board, workload)
        if len(lines) > 1:
            items.append((workload, lines))
            _colour([name for name, _ in lines[:NAMED]], colours)

    def draw(axis, item) -> None:
        workload, lines = item
        _panel(
            axis,
            [(name, curve, colours.get(name, PALE)) for name, curve in lines[:NAMED]],
            [curve for _, curve in lines[NAMED : NAMED + BEHIND]],
            workload,
            label_of(workload, board),
        )

    names = [name for _, lines in items for name, _ in lines[:NAMED]]
    right = room([*names, "reference"], 7)
    return grid(items, draw, 2.9 + right, 2.3, right=right)


def _curves(board: Board, workload: Workload) -> list[tuple[str, Curve]]:
    """Return the curve of the median seed of each submission, the best submission first."""
    sign = 1.0 if direction_of(workload)[1] == "at_most" else -1.0
    found = []
    for row in raced(board, workload.key):
        runs = sorted(runs_of(row, workload.key), key=lambda run: run.time)
        curve = finite(runs[len(runs) // 2].curve)
        if len(curve) > 1:
            best = min(sign * value for _, value in curve)
            found.append((row.cells[workload.key].time, best, plain(row.name), curve))
    return [(name, curve) for _, _, name, curve in sorted(found)]


def finite(curve: list) -> Curve:
    """Return (seconds, value) of a curve's evaluations after the start that have a value."""
    return [(x, y) for step, x, y in curve if step and y is not None and math.isfinite(y)]


def _colour(names: list[str], colours: dict[str, str]) -> None:
    """Give each name of a panel a colour that no other name of the panel has, where possible."""
    for name in names:
        if name not in colours:
            taken = [colours[other] for other in names if other in colours]
            counts = [(list(colours.values()).count(c), i) for i, c in enumerate(SERIES)]
            free = [place for place in sorted(counts) if SERIES[place[1]] not in taken]
            colours[name] = SERIES[(free or sorted(counts))[0][1]]


def _panel(
    axis,
    named: list[tuple[str, Curve, str]],
    behind: list[Curve],
    workload: Workload,
    title: str,
) -> None:
    """Draw curves against reference seconds: named ones, pale ones, the reference, the goal."""
    metric, direction, target = direction_of(workload)
    frozen = (workload.reference or {}).get("curve", [])
    reference = finite(
        [[p["step"], p["reference_seconds"], p["metrics"].get(metric)] for p in frozen]
    )
    axis.set_title(title, loc="left")
    axis.set_ylabel(metric.replace("_", " "))
    for curve in behind:
        axis.plot(*zip(*curve), color=PALE, linewidth=0.7, zorder=1)
    labels, written = [], set()
    if reference:
        axis.plot(*zip(*reference), **REFERENCE_LINE, zorder=2)
        labels.append((reference[-1][1], "reference", REFERENCE))
    for name, curve, colour in named:
        axis.plot(*zip(*curve), color=colour, linewidth=1.4, zorder=3)
        if name not in written:  # seeds of a point share its name
            text = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
            labels.append((curve[-1][1], text, colour))
            written.add(name)
    axis.axhline(target, **GOAL_LINE, zorder=2)
    shown = [curve for _, curve, _ in named] + [reference] * bool(reference)
    values = [y for curve in shown for _, y in curve] + [target]
    if spans_decades(values, direction):
        log_axis(axis, "y")
        axis.set_ylim(min(values) / 1.6, max(values) * 1.6)
    else:
        axis.set_ylim(*_range(shown, target, direction))
    axis.set_xlim(left=0)
    axis.set_xlabel("reference seconds")
    name_lines(axis, labels, size=7, line=0.085)


def _range(curves: list[Curve], target: float, direction: str) -> tuple[float, float]:
    """Return the ends of a panel's metric: its first values may leave the picture."""
    end = max(x for curve in curves for x, _ in curve)
    later = [y for curve in curves for x, y in curve if x >= FALL * end]
    later = sorted(later or [y for curve in curves for _, y in curve])
    low, high = min(later[0], target), max(later[-1], target)
    if direction == "at_most":
        middle = later[len(later) // 2]
        high = max(target, min(high, target + 4 * abs(middle - target) + 0.1 * (high - low)))
    margin = 0.08 * ((high - low) or abs(target) or 1.0)
    return low - margin, high + margin


def every_run(board: Board):
    """Draw every run that was read from a run folder: a user's own races, in one plot."""
    items = []
    for workload in board.workloads:
        runs = [
            (run, row.name)
            for row in board.rows
            if workload.key in row.choices
            for run, _ in row.choices[workload.key].every
            if run.record["run_id"] in board.own
        ]
        lines = _named_runs(runs)
        if lines:
            items.append((workload, lines))

    def draw(axis, item) -> None:
        workload, lines = item
        names = list(dict.fromkeys(name for name, _ in lines))
        chosen = dict(zip(names, SERIES))
        named = [(name, curve, chosen[name]) for name, curve in lines if name in chosen]
        behind = [curve for name, curve in lines if name not in chosen]
        _panel(axis, named, behind, workload, label_of(workload, board))

    names = [name for _, lines in items for name, _ in lines]
    right = min(2.2, room([*names, "reference"], 7))
    return grid(items, draw, 3.6 + right, 3.0, columns=2, right=right)


def _named_runs(runs: list[tuple]) -> list[tuple[str, Curve]]:
    """Return (name, curve) of runs, the best first; a name has what differs between its points."""
    settings = {name: varied([run for run, other in runs if other == name]) for _, name in runs}
    found = []
    for run, name in sorted(runs, key=lambda item: tuning_order(item[0])):
        hp = run.record["hp"]
        # the learning rate first: a long name is cut when it is drawn
        keys = sorted(settings[name], key=lambda key: key != "lr")
        point = [f"{key} {short(hp[key])}" for key in keys if key in hp]
        curve = finite(run.curve)
        if len(curve) > 1:
            found.append((plain(" ".join([name, *point])), curve))
    return found


def short(value) -> str:
    """Return a hyperparameter's value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
