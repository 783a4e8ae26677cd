"""The frame of a run's picture: style, axes, grid, names of lines at the right, the PNG."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from harness.report.palette import GRID, INK, MUTED
from harness.system.files import atomic_write

SIZE = (8.0, 4.5)  # inches
DOTS_PER_INCH = 160
LEFT, BOTTOM, WIDTH, HEIGHT = 0.09, 0.125, 0.735, 0.70  # of the axes, in the figure
LINE = 0.058  # of the height of the axes: the least distance between two names
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: no search, the same everywhere
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
Label = tuple[float, str, str]  # value at the right end of a line, its name, its colour


@contextmanager
def frame(path: Path | str, title: str, sentence: str) -> Iterator[tuple[Any, list[Label]]]:
    """Yield axes to draw on, and a list that takes the names of lines; then write the PNG.

    The same drawing gives the same bytes, whatever the user's matplotlib settings are.

    Args:
        path: the file, which is replaced as a whole.
        title: for example "gpt2.mini  lion, seed 0".
        sentence: what the picture shows, below the title.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc does not change the picture
        matplotlib.rcParams.update(STYLE)  # type: ignore
        figure = Figure(figsize=SIZE, dpi=DOTS_PER_INCH, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((LEFT, BOTTOM, WIDTH, HEIGHT))
        bare(axes)
        axes.tick_params(pad=6)
        labels: list[Label] = []
        yield axes, labels
        name_lines(axes, labels)
        figure.text(LEFT, 0.93, title, fontsize=13, fontweight="bold", va="center")
        figure.text(LEFT, 0.872, sentence, fontsize=10, color=MUTED, va="center")
        paper = BytesIO()
        figure.savefig(paper, format="png", metadata={"Software": None})
    atomic_write(path, paper.getvalue())


def bare(axes) -> None:
    """Leave horizontal grid lines and the bottom edge of the axes, nothing else."""
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, which="both")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def name_lines(axes, labels: list[Label], size: float = 9.5, line: float = LINE) -> None:
    """Write each line's name at its right end, moved apart where names would overlap.

    Args:
        line: the height of a name, as a share of the height of the axes.
    """
    if not labels:
        return
    scale, outside = axes.yaxis.get_transform(), axes.get_ylim()
    low, high = scale.transform(outside)

    def place(value: float) -> float:
        inside = min(max(value, min(outside)), max(outside))
        return float((scale.transform([inside])[0] - low) / (high - low))

    ordered = sorted((place(value), text, colour) for value, text, colour in labels)
    places = apart([height for height, _, _ in ordered], line)
    for height, (_, text, colour) in zip(places, ordered, strict=True):
        axes.annotate(
            text,
            (1.0, height),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            fontsize=size,
            va="center",
            annotation_clip=False,
        )


def apart(places: list[float], gap: float) -> list[float]:
    """Return ordered places between 0 and 1 that are at least `gap` apart, each near its own."""
    places = list(places)
    for _ in range(80):  # neighbours push each other apart until all have room
        for i in range(len(places) - 1):
            push = gap - (places[i + 1] - places[i])
            if push > 0:
                places[i], places[i + 1] = places[i] - push / 2, places[i + 1] + push / 2
    highest = 1.0
    for i in reversed(range(len(places))):  # none above the axes
        places[i] = min(places[i], highest)
        highest = places[i] - gap
    for i, place in enumerate(places):  # none below them
        places[i] = max(place, places[i - 1] + gap if i else 0.0)
    return places
