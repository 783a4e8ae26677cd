"""The speed-up over the reference as a function of the target, from runs to the end of the budget.

An order that holds at one target alone is seen: the lines of two submissions cross.
"""

import math
from collections.abc import Sequence

from harness.records.judging import conditions_hold, crossing, interpolated_time
from harness.records.run import RecordedRun
from harness.report.board.rows import Board, Workload, direction_of
from harness.report.board.style import colours_of, grid, label_of, plain, raced, runs_of
from harness.report.palette import PALE, REFERENCE_LINE

# the share of the reference's budget at which its value is the easiest target
FROM = 0.4
TARGETS = 25
# submissions in a panel
MOST = 8
# (seconds, value of the goal's metric) of each evaluation in order
Points = Sequence[tuple[float, float]]


def time_to(points: Points, direction: str, target: float) -> float:
    """Return the interpolated seconds at which a curve reaches a target; inf if it does not."""
    goal = {"metric": {direction: target}}
    rows = [{"seconds": seconds, "metrics": {"metric": value}} for seconds, value in points]
    judged = [row | {"goal": conditions_hold(goal, row["metrics"])} for row in rows]
    at = crossing(judged)
    return math.inf if at is None else interpolated_time(judged, goal, at)


def targets(reference: Points, direction: str) -> list[float]:
    """Return targets from the reference's value at FROM of its time to its last, easiest first.

    They are those that it reaches, evenly spaced in the metric. Without a way between the two
    values there are none.
    """
    if len(reference) < 3:
        return []
    start = next(value for seconds, value in reference if seconds >= FROM * reference[-1][0])
    end = reference[-1][1]
    if end >= start if direction == "at_most" else end <= start:
        return []
    values = [start + (end - start) * i / (TARGETS - 1) for i in range(TARGETS)]
    return [value for value in values if math.isfinite(time_to(reference, direction, value))]


def speedups(curves: Sequence[Points], reference: Points, direction: str) -> list[tuple]:
    """Return (target, speed-up over the reference) of a submission's curves.

    The speed-up is the reference's time over the geometric mean of the curves'. A target that a
    curve does not reach is left out.
    """
    result = []
    for target in targets(reference, direction):
        times = [time_to(points, direction, target) for points in curves]
        if times and all(0 < time < math.inf for time in times):
            mean = sum(map(math.log, times)) / len(times)
            result.append((target, time_to(reference, direction, target) / math.exp(mean)))
    return result


def by_target(board: Board):
    """Draw the speed-up against the target, of submissions whose runs all went to the end."""
    items = [(w, lines) for w in board.workloads if len(lines := _lines(board, w)) > 1]
    names = list(dict.fromkeys(name for _, lines in items for name, _ in lines))
    colours = colours_of(names)

    def draw(axes, item) -> None:
        workload, lines = item
        metric, direction, target = direction_of(workload)
        for name, points in lines:
            axes.plot(*zip(*points), color=colours.get(name, PALE), linewidth=1.6)
        axes.axhline(1, **REFERENCE_LINE)
        axes.axvline(target, **REFERENCE_LINE)
        if direction == "at_most":
            axes.invert_xaxis()
        axes.set_title(label_of(workload, board), loc="left")
        axes.set(xlabel=f"target: {metric.replace('_', ' ')}", ylabel="speed-up")

    return grid(items, draw, 3.4, 2.6, legend=names)


def _lines(board: Board, workload: Workload) -> list[tuple[str, list[tuple]]]:
    """Return (submission, its speed-ups by target) of a workload with a goal of one condition."""
    frozen = (workload.reference or {}).get("curve") or []
    metric, direction, _ = direction_of(workload)
    if not workload.time or len(workload.goal) > 1:
        return []
    reference = _finite([(p["reference_seconds"], p["metrics"].get(metric)) for p in frozen])
    result = []
    for row in raced(board, workload.key)[:MOST]:
        runs = runs_of(row, workload.key)
        if all(_to_the_end(run) for run in runs):
            curves = [_finite([(seconds, value) for _, seconds, value in r.curve]) for r in runs]
            points = speedups(curves, reference, direction)
            if len(points) > 1:
                result.append((plain(row.name), points))
    return result


def _to_the_end(run: RecordedRun) -> bool:
    """Return True if a run used up the workload's budget and is not a stream's."""
    columns = run.record.get("evaluations") or {"before": {}}
    return "before" not in columns and run.record.get("step", 0) >= run.record["horizon"]


def _finite(points: Sequence) -> Points:
    """Return the points that have a value."""
    return [(x, y) for x, y in points if y is not None and math.isfinite(y)]
