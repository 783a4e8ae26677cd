"""Draw a stream: the quality of each task after every step, what is lost after each switch shaded.

Made as harness/report/run/picture.py makes its pictures: the same rows give the same bytes.
"""

from io import BytesIO
from pathlib import Path

from harness.catalog.goal import primary
from harness.records.stream_history import history
from harness.report.run.frame import DOTS_PER_INCH, GRID, INK, MUTED, STYLE, TARGET, label
from harness.report.run.text import number
from harness.system.files import atomic_write

SIZE = (9.0, 4.8)
COLOURS = ("#2563eb", "#db2777", "#059669", "#7c3aed", "#ea580c")
PALE = "#c3cad6"  # of classes that come back, which are too many to tell apart
LEFT, BOTTOM, WIDTH, HEIGHT = 0.075, 0.12, 0.80, 0.70  # of the axes, in the figure


def draw(block: dict, rows: list[dict], metrics: dict, path: Path | str, title: str) -> None:
    """Write a PNG of every task's quality against steps.

    Args:
        block: the workload's numbers.
        rows: of the run's log.
        metrics: one convention of `continual.report`.
        path: the file, replaced as a whole.
        title: for example "stream_split.mini / er, seed 0".
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seen, (name, _, target) = history(block, rows), primary(block["goal"])
    many = seen.recurring or len(seen.groups) > len(COLOURS)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)  # type: ignore
        figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((LEFT, BOTTOM, WIDTH, HEIGHT))
        for i, points in enumerate(seen.groups):
            steps = [seen.steps[n] for n, _ in points]
            values = [seen.sign * value for _, value in points]
            colour = PALE if many else COLOURS[i]
            axes.plot(steps, values, color=colour, linewidth=0.9 if many else 1.3, zorder=3)
            if not many:
                _gaps(axes, seen, i, colour)
                label(axes, values[-1], f"task {i + 1}  {number(values[-1])}", colour)
        means = [(seen.steps[n], value) for n, value in _means(seen)]
        axes.plot(*zip(*means, strict=True), color=INK, linewidth=2.2, zorder=4)
        label(axes, means[-1][1], f"mean  {number(means[-1][1])}", INK)
        axes.axhline(target, color=TARGET, linewidth=1.0, dashes=(5, 3), zorder=2)
        for end in () if seen.recurring else seen.ends[:-1]:
            axes.axvline(end, color=MUTED, linewidth=0.8, alpha=0.6, zorder=1)
        axes.set_xlim(0, block["horizon"])
        axes.set_xlabel("steps")
        axes.set_ylabel(name)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, pad=6)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        _spread(axes)
        figure.text(LEFT, 0.935, title, fontsize=13, fontweight="bold", va="center")
        figure.text(LEFT, 0.875, _sentence(metrics), fontsize=10, color=MUTED, va="center")
        paper = BytesIO()
        figure.savefig(paper, format="png", metadata={"Software": None})
    atomic_write(path, paper.getvalue())


def _gaps(axes, seen, task: int, colour: str) -> None:
    """Shade what a task lacks of its value before each switch, during the task after it."""
    for end, following in zip(seen.ends[task:], seen.ends[task + 1 :], strict=False):
        points = seen.after(task, end, following)
        if not points or seen.steps[-1] < end:
            return
        before = seen.at(task, end)
        steps = [end, *(n for n, _ in points)]
        lower = [before, *(min(v, before) for _, v in points)]
        level = [seen.sign * before] * len(steps)
        axes.fill_between(
            steps, level, [seen.sign * v for v in lower], color=colour, alpha=0.10, linewidth=0
        )


def _means(seen) -> list[tuple[int, float]]:
    """(index into steps, mean over the tasks seen then)."""
    known, made = [dict(points) for points in seen.groups], []
    for n, step in enumerate(seen.steps):
        count = len(known) if seen.recurring else seen.seen(step)
        made.append((n, seen.sign * sum(values[n] for values in known[:count]) / count))
    return made


def _spread(axes) -> None:
    """Move the labels at the right apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = 0.058 * (high - low)
    labels = sorted(axes.texts, key=lambda text: text.xy[1])
    places = [min(max(text.xy[1], low), high) for text in labels]
    for _ in range(80):
        for i in range(len(places) - 1):
            push = gap - (places[i + 1] - places[i])
            if push > 0:
                places[i], places[i + 1] = places[i] - push / 2, places[i + 1] + push / 2
    for i, place in enumerate(places):  # none below the axis
        places[i] = max(place, places[i - 1] + gap if i else low)
    for text, place in zip(labels, places, strict=True):
        text.xy = (1.0, place)


def _sentence(metrics: dict) -> str:
    """The stream in one line: what was forgotten, the worst, the gaps."""
    shown = (
        ("forgetting", "forgetting"),
        ("worst_case", "worst case"),
        ("gap_depth", "gap depth"),
        ("gap_recovery", "recovery"),
        ("fall_10", "fall within 10 evaluations"),
    )
    parts = []
    for key, words in shown:
        value = metrics[key].get("value")
        if value is not None:
            unit = " steps" if key == "gap_recovery" else ""
            parts.append(f"{words} {number(value)}{unit}")
    return "; ".join(parts)
