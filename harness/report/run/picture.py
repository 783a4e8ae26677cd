"""Draw a run: its metric against reference seconds, beside the frozen reference and the target.

Only matplotlib's Figure and its PNG canvas are imported, when a picture is drawn, and the same
rows give the same bytes.
"""

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from harness.catalog.goal import meets, primary
from harness.report.run import stream_picture
from harness.report.run.frame import (
    DOTS_PER_INCH,
    GRID,
    MUTED,
    REFERENCE,
    RUN,
    STYLE,
    TARGET,
    label,
)
from harness.report.run.text import number, speedup
from harness.system.files import atomic_write

SIZE = (8.0, 4.5)
LEFT, BOTTOM, WIDTH, HEIGHT = 0.085, 0.125, 0.765, 0.70  # of the axes, in the figure
FALL = 0.12  # of the time: a loss above what it was then is cut off at the top


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
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric, direction, target = primary(goal)
    run, crossing = curve(rows, goal)
    other, other_crossing = curve(reference_rows or [], goal)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc does not change the picture
        matplotlib.rcParams.update(STYLE)  # type: ignore
        figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((LEFT, BOTTOM, WIDTH, HEIGHT))
        _frame(axes, run, other, target, direction)
        axes.set_ylabel(metric.replace("_", " "))
        axes.axhline(target, color=TARGET, linewidth=1.1, dashes=(5, 3), zorder=2)
        labels = [(target, f"target {number(target)}", TARGET)]
        for points, colour, width, name in (
            (other, REFERENCE, 1.8, "reference"),
            (run, RUN, 2.4, "this run"),
        ):
            if points:
                x, y = zip(*points)
                axes.plot(x, y, color=colour, linewidth=width, solid_capstyle="round", zorder=3)
                labels.append((y[-1], f"{name} {number(y[-1])}", colour))
        _crossing(axes, other_crossing, REFERENCE, filled=False)
        _crossing(axes, crossing, RUN, filled=True)
        _labels(axes, labels)
        figure.text(LEFT, 0.93, title, fontsize=13, fontweight="bold", va="center")
        told = _sentence(crossing, other_crossing, bool(other))
        figure.text(LEFT, 0.872, told, fontsize=10, color=MUTED, va="center")
        paper = BytesIO()
        figure.savefig(paper, format="png", metadata={"Software": None})
    atomic_write(path, paper.getvalue())


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
    held = [meets(goal, row["metrics"]) for row in found]
    for first, second, point in zip(held[1:], held[2:], points[1:]):
        if first and second:
            return points, point
    return points, None


def _frame(axes, run: list, other: list, target: float, direction: str) -> None:
    """Set limits, ticks and grid: the first fall of a loss may leave the picture at the top."""
    everything = [*run, *other]
    end = max([seconds for seconds, _ in everything] or [1.0]) or 1.0
    values = [value for _, value in everything] or [target]
    later = [value for seconds, value in everything if seconds >= FALL * end] or values
    low, high = min([*later, target]), max([*later, target])
    if direction == "at_least":
        low, high = min([low, *values]), max([high, *values])
    margin = 0.08 * ((high - low) or abs(target) or 1.0)
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlim(0, end * 1.01)
    axes.set_xlabel("reference seconds")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _crossing(axes, point: tuple[float, float] | None, colour: str, filled: bool) -> None:
    """Mark where a curve met the goal, with a thin line down to its time."""
    if point is None:
        return
    low = axes.get_ylim()[0]
    axes.plot([point[0]] * 2, [low, point[1]], color=colour, linewidth=1.0, alpha=0.6, zorder=2)
    face = colour if filled else "white"
    axes.plot(
        *point, "o", color=face, mec=colour if not filled else "white", mew=1.6, ms=8, zorder=5
    )
    left = point[0] > 0.88 * axes.get_xlim()[1]  # no room at the right
    axes.annotate(
        f"{point[0]:.1f} s",
        (point[0], low),
        xytext=(-5 if left else 5, 5),
        textcoords="offset points",
        ha="right" if left else "left",
        color=colour,
        fontsize=9.5,
        fontweight="bold" if filled else "normal",
        zorder=6,
    )


def _labels(axes, labels: list[tuple[float, str, str]]) -> None:
    """Write each line's name at its right end, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = 0.058 * (high - low)
    labels = sorted(labels)
    places = [max(min(value, high), low) for value, _, _ in labels]
    for _ in range(50):  # neighbours push each other apart until all have room
        for i in range(len(places) - 1):
            push = gap - (places[i + 1] - places[i])
            if push > 0:
                places[i], places[i + 1] = places[i] - push / 2, places[i + 1] + push / 2
    for place, (_, text, colour) in zip(places, labels):
        label(axes, place, text, colour)


def _sentence(crossing, reference_crossing, compared: bool) -> str:
    """Say what the picture shows."""
    if crossing is None:
        return "the goal was not reached"
    told = f"goal reached in {crossing[0]:.1f} reference seconds"
    if reference_crossing is None:
        return f"{told}; the frozen reference did not get there" if compared else told
    ratio = speedup(crossing[0], {"time": reference_crossing[0]})
    if not ratio:
        return told
    word = f"{ratio:.2f}x faster" if ratio >= 1 else f"{1 / ratio:.2f}x slower"
    return f"{told}, {word} than the frozen reference ({reference_crossing[0]:.1f} s)"


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
