"""Draw a run: its metric against reference seconds, beside the frozen reference and the target.

matplotlib is imported only when a picture is drawn, and the same rows give the same bytes.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from harness.catalog.goal import primary
from harness.records import judging
from harness.records.judging import conditions_hold
from harness.report.palette import FALL, GOAL, GOAL_LINE, REFERENCE, RUN, spans_decades
from harness.report.run import stream_picture
from harness.report.run.frame import frame
from harness.report.run.text import number, seconds, speedup

Point = tuple[float, float]  # reference seconds, value


def draw(
    rows: Sequence[dict],
    goal: dict,
    reference_rows: Sequence[dict] | None,
    path: Path | str,
    title: str,
) -> None:
    """Write a PNG of the goal's first metric against reference seconds.

    Args:
        rows: the run's evaluations that count, each with `reference_seconds` and `metrics`.
        goal: {metric: {"at_most" | "at_least": target}, ...}, the headline metric first.
        reference_rows: the same of the frozen reference, or None.
        path: the file, replaced as a whole.
        title: for example "gpt2.mini / lion, seed 0".
    """
    metric, direction, target = primary(goal)
    run, crossing = curve(rows, goal)
    reference, reference_crossing = curve(reference_rows or [], goal)
    sentence = _sentence(crossing, reference_crossing, bool(reference))
    with frame(path, title, sentence) as (axes, labels):
        _limits(axes, [*run, *reference], target, direction)
        axes.set_ylabel(metric.replace("_", " "))
        axes.axhline(target, **GOAL_LINE, zorder=2)
        labels.append((target, f"target {number(target)}", GOAL))
        for points, colour, width, name in (
            (reference, REFERENCE, 1.8, "reference"),
            (run, RUN, 2.4, "this run"),
        ):
            if points:
                x, y = zip(*points)
                axes.plot(x, y, color=colour, linewidth=width, solid_capstyle="round", zorder=3)
                labels.append((y[-1], f"{name} {number(y[-1])}", colour))
        _crossing(axes, reference_crossing, crossing, REFERENCE, filled=False)
        _crossing(axes, crossing, reference_crossing, RUN, filled=True)


def curve(
    rows: Sequence[dict], goal: dict
) -> tuple[list[tuple[float, float]], tuple[float, float] | None]:
    """Return (seconds, value) of each evaluation, and the point where the goal was met, if it was.

    The goal is met at the first of two evaluations in a row that hold it; the start, which no
    training has touched, does not count.
    """
    metric = primary(goal)[0]
    found = [row for row in rows if row["metrics"].get(metric) is not None]
    found = [row for row in found if math.isfinite(row["metrics"][metric])]
    points = [(row["reference_seconds"], row["metrics"][metric]) for row in found]
    judged = [{"goal": conditions_hold(goal, row["metrics"])} for row in found]
    at = judging.crossing(judged)
    return points, None if at is None else points[at]


def _limits(axes, points: list[Point], target: float, direction: str) -> None:
    """Set the limits of the axes: the first fall of a loss may leave the picture at the top."""
    end = max([seconds for seconds, _ in points] or [1.0]) or 1.0
    values = [value for _, value in points] or [target]
    axes.set_xlim(0, end * 1.01)
    axes.set_xlabel("reference seconds")
    if spans_decades([*values, target], direction):
        axes.set_yscale("log")
        axes.set_ylim(min(*values, target) / 1.6, max(*values, target) * 1.6)
        return
    later = [value for seconds, value in points if seconds >= FALL * end] or values
    low, high = min([*later, target]), max([*later, target])
    if direction == "at_least":
        low, high = min([low, *values]), max([high, *values])
    margin = 0.08 * ((high - low) or abs(target) or 1.0)
    axes.set_ylim(low - margin, high + margin)


def _crossing(axes, point: Point | None, neighbour: Point | None, colour: str, filled: bool):
    """Mark where a curve met the goal, with a thin line down to its time.

    The time stands at the right of the line, or at the left where there is no room: at the edge,
    or just before the other curve's time.
    """
    if point is None:
        return
    low, width = axes.get_ylim()[0], axes.get_xlim()[1]
    axes.plot([point[0]] * 2, [low, point[1]], color=colour, linewidth=1.0, alpha=0.6, zorder=2)
    face, edge = (colour, "white") if filled else ("white", colour)
    axes.plot(*point, "o", color=face, mec=edge, mew=1.6, ms=8, zorder=5)
    ahead = neighbour[0] - point[0] if neighbour else width
    first = 0 < ahead < 0.12 * width or (ahead == 0 and not filled)
    left = first or point[0] > 0.88 * width
    if left and neighbour and -0.12 * width < ahead < 0:  # both at the edge: one above the other
        rise = 18
    else:
        rise = 5
    axes.annotate(
        f"{seconds(point[0])} s",
        (point[0], low),
        xytext=(-5 if left else 5, rise),
        textcoords="offset points",
        ha="right" if left else "left",
        color=colour,
        fontsize=9.5,
        fontweight="bold" if filled else "normal",
        zorder=6,
    )


def _sentence(crossing, reference_crossing, compared: bool) -> str:
    """Return what the picture shows, in words."""
    if crossing is None:
        return "the goal was not reached"
    text = f"goal reached in {seconds(crossing[0])} reference seconds"
    if reference_crossing is None:
        return f"{text}; the frozen reference did not get there" if compared else text
    ratio = speedup(crossing[0], {"time": reference_crossing[0]})
    if not ratio:
        return text
    if f"{ratio:.2f}" == "1.00":
        return f"{text}, as fast as the frozen reference"
    word = f"{ratio:.2f}x faster" if ratio >= 1 else f"{1 / ratio:.2f}x slower"
    return f"{text}, {word} than the frozen reference ({seconds(reference_crossing[0])} s)"


def draw_trial(trial, rows: list[dict], result: dict) -> None:
    """Write a trial's curve.png: against the frozen reference, or one curve a task of a stream."""
    from harness.records import run_folder
    from harness.records.references import reference

    frozen, goal = reference(trial.definition), trial.definition.block["goal"]
    title = f"{trial.definition.key}  {trial.card.plugin.name}, seed {trial.seed}"
    path = trial.folder / "curve.png"
    if "continual" in result:
        scores = result["continual"]["strict"]
        stream_picture.draw(trial.definition.block, rows, scores, path, title)
    else:
        draw(run_folder.evaluations(rows), goal, frozen["curve"] if frozen else [], path, title)
