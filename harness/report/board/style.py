"""What the figures of a board share: inks that follow the page, panels, legends, SVG."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from io import StringIO

from harness.report.board.rows import Board, Row, Workload
from harness.report.palette import GOAL, GRID, INK, MUTED, PALE, REFERENCE, RUN, SERIES

MOST = 30  # submissions in a figure: the first of the board
TOP, BOTTOM = 0.3, 0.52  # inches above and below the axes of a panel
SHARED = 0.12  # inches at the left of a panel whose labels are those of another
SHADES = (
    ("--ink", INK, "#e6e9ef"),
    ("--muted", MUTED, "#98a2b3"),
    ("--line", GRID, "#2c3340"),
    ("--pale", PALE, "#475063"),
    ("--reference", REFERENCE, "#7d8798"),
    ("--goal", GOAL, "#f0a04b"),
    ("--accent", RUN, "#7ea6ff"),
)  # of the page, light and dark
STYLE = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9, "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": GRID,
    "xtick.color": MUTED, "ytick.color": INK, "axes.grid": True, "grid.color": GRID,
    "grid.linewidth": 0.8, "axes.axisbelow": True, "axes.titlesize": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.spines.left": False, "xtick.major.size": 0,
    "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0, "legend.frameon": False,
    "axes.titleweight": "bold", "figure.facecolor": "none", "axes.facecolor": "none",
    "savefig.facecolor": "none",
}  # fmt: skip


def svg(figure) -> str:
    """Return the figure as SVG without a date, its inks as CSS variables of the page."""
    paper = StringIO()
    figure.savefig(paper, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches=None)
    text = paper.getvalue()
    text = text[text.index("<svg") :]
    for name, light, _ in SHADES:
        text = text.replace(light, f"var({name}, {light})")
    text = re.sub(
        r"font(-family)?: ([^;\"]*)'DejaVu Sans'[^;\"]*", r"font\1: \2var(--font, sans-serif)", text
    )
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(
        r' width="([0-9.]+)pt" height="[0-9.]+pt"',
        r' width="100%" style="--natural: \1pt; max-width: \1pt" role="img"',
        text,
        count=1,
    )
    return re.sub(r"\s*\n\s*", "\n", text)


def standalone(svg: str) -> str:
    """Return the SVG as a file: with the inks of a dark page where the reader's is dark."""
    return svg.replace(">", f">{_dark()}", 1) + ("" if svg.endswith("\n") else "\n")


def inline(file: str) -> str:
    """Return the SVG that a file was made of."""
    return file.replace(_dark(), "", 1)


def _dark() -> str:
    dark = "; ".join(f"{name}: {shade}" for name, _, shade in SHADES)
    return f"<style>@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}</style>"


def grid(
    items: Sequence,
    draw: Callable,
    width: float,
    height: float | Callable,
    columns: int = 3,
    left: float = 0.65,
    right: float = 0.15,
    below: float = BOTTOM,
    legend: Sequence[str] = (),
    shared: bool = False,
    marker: str = "",
):
    """Return a figure with a panel for each item, drawn by `draw(axes, item)`; None without items.

    Places are computed, not measured: matplotlib's own layout takes most of a figure's time.

    Args:
        width, height: of a panel with its labels, in inches; `height(item)` where panels differ.
        left, right, below: room for the labels around a panel, in inches.
        shared: the panels of a row share the labels at the left of the first.
        legend: the names that the panels share, in the order of their colours.
        marker: of the legend; "" for lines.
    """
    from matplotlib.figure import Figure

    if not items:
        return None
    columns = min(columns, len(items))
    rows = math.ceil(len(items) / columns)
    first = left - SHARED if shared else 0.0
    wide = width * columns + first
    each = [height(item) if callable(height) else height for item in items]
    heights = [max(each[row * columns : (row + 1) * columns]) for row in range(rows)]
    high = sum(heights) + _legend_height(legend, wide)
    figure = Figure(figsize=(wide, high))
    inside = SHARED if shared else left
    for i, item in enumerate(items):
        row, column = divmod(i, columns)
        x, y = first + column * width + inside, high - sum(heights[: row + 1]) + below
        size = (width - inside - right) / wide, (heights[row] - below - TOP) / high
        axes = figure.add_axes((x / wide, y / high, *size))
        draw(axes, item)
        if shared and column:
            axes.tick_params(labelleft=False)
    if legend:
        _legend(figure, legend, marker)
    return figure


def room(names: Iterable[str], size: float = 8.0) -> float:
    """Return the inches that the longest of these names takes beside a panel."""
    return 0.18 + 0.54 * size / 72 * max(map(len, names), default=0)


def plain(name: str) -> str:
    """Return a name that matplotlib does not read as mathematics."""
    return name.replace("$", r"\$")


def label_of(workload: Workload, board: Board) -> str:
    """Return a workload's name without the board's scale."""
    parts = workload.key.split(".")
    return plain(".".join([parts[0], *parts[2:]])) if len(parts) > 1 else plain(workload.key)


def shown(board: Board) -> list[Row]:
    """Return the submissions of a figure of the whole board."""
    return board.rows[:MOST]


def raced(board: Board, key: str) -> list[Row]:
    """Return the submissions with runs on a workload, the fastest first, as the board orders."""
    rows = [row for row in board.rows if row.choices.get(key) and row.choices[key].runs]
    return sorted(rows, key=lambda row: row.cells[key].time)


def runs_of(row: Row, key: str) -> list:
    """Return the runs of a submission that count on a workload."""
    return row.choices[key].runs if key in row.choices else []


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name; those after the last colour are pale."""
    return {name: SERIES[i] if i < len(SERIES) else PALE for i, name in enumerate(names)}


def _named(names: Sequence[str]) -> list[str]:
    """Return the entries of a legend: the coloured names, and "others" for the pale ones."""
    return [*names[: len(SERIES)], *["others"] * (len(names) > len(SERIES))]


def _columns(names: Sequence[str], wide: float) -> int:
    """Return the number of columns of a legend in a figure of this width, in inches."""
    named = _named(names)
    return max(1, min(len(named), int(wide / (room(named) + 0.45))))


def _legend_height(names: Sequence[str], wide: float) -> float:
    if not names:
        return 0.0
    return 0.12 + 0.2 * math.ceil(len(_named(names)) / _columns(names, wide))


def _legend(figure, names: Sequence[str], marker: str) -> None:
    """Name the colours below the panels."""
    from matplotlib.lines import Line2D

    colours, named = colours_of(names), _named(names)
    handles = [
        Line2D(
            [], [], color=colours.get(name, PALE), linewidth=2, marker=marker or None,
            linestyle="" if marker else "-",
        )
        for name in named
    ]  # fmt: skip
    figure.legend(
        handles, named, loc="lower center", ncols=_columns(names, figure.get_figwidth()),
        labelcolor=INK, fontsize=8, borderaxespad=0.2, borderpad=0.1,
    )  # fmt: skip


def heatmap(axes, values, words: list[list[str]] | None, colours, ends: tuple) -> None:
    """Draw a table of colours with a word in each cell; cells that are not a number stay empty.

    Args:
        values: an array of two dimensions.
        colours: a colour map.
        ends: the values of its two ends; None for the table's own.
    """
    import numpy

    masked = numpy.ma.masked_invalid(values)
    mesh = axes.pcolormesh(masked, cmap=colours, vmin=ends[0], vmax=ends[1], rasterized=False)
    low, high = mesh.get_clim()
    for (i, j), value in numpy.ndenumerate(values):
        if words and numpy.isfinite(value):
            share = (value - low) / ((high - low) or 1.0)
            red, green, blue, _ = colours(min(max(share, 0.0), 1.0))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
            ink = "white" if dark else "#101828"
            axes.text(
                j + 0.5, i + 0.5, words[i][j], ha="center", va="center", fontsize=7.5, color=ink
            )
    axes.set_xlim(0, values.shape[1])
    axes.set_ylim(values.shape[0], 0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def log_axis(axes, which: str) -> None:
    """Make the axis "x" or "y" logarithmic, with at most six ticks, at powers of ten."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(numticks=6))
    axis.set_minor_locator(NullLocator())
