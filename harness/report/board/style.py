"""What the figures share: colours that follow the page, panels, legends, SVG of equal bytes."""

import math
import re
from io import StringIO

from harness.report.board.rows import Board, Row

INK, MUTED, GRID = "#1f2937", "#7b8494", "#e3e7ee"
COLOURS = ["#4269d0", "#ef9c18", "#e8554a", "#3ca98f", "#a463f2", "#d9589a", "#7f9cf5", "#9c6b4e"]
MOST = 30  # submissions in a figure: the first of the board
SHADES = (("--ink", INK, "#e6e9ef"), ("--muted", MUTED, "#98a2b3"), ("--line", GRID, "#2c3340"))
STYLE = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9, "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": GRID,
    "xtick.color": MUTED, "ytick.color": INK, "axes.grid": True, "grid.color": GRID,
    "grid.linewidth": 0.8, "axes.axisbelow": True, "axes.titlesize": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.spines.left": False, "xtick.major.size": 0,
    "ytick.major.size": 0, "legend.frameon": False, "axes.titleweight": "bold",
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
}  # fmt: skip


def svg(figure) -> str:
    """The figure as SVG without a date, its inks as CSS variables of the page."""
    import matplotlib.pyplot as plt

    paper = StringIO()
    figure.savefig(paper, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches=None)
    plt.close(figure)
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
        r' width="100%" style="max-width: \1pt" role="img"',
        text,
        count=1,
    )
    return re.sub(r"\s*\n\s*", "\n", text)


def standalone(svg: str) -> str:
    """The same as a file: with the inks of a dark page where the reader's is dark."""
    dark = "; ".join(f"{name}: {shade}" for name, _, shade in SHADES)
    style = f"<style>@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}</style>"
    return svg.replace(">", f">{style}", 1) + ("" if svg.endswith("\n") else "\n")


def panels(count: int, width: float, height: float, columns: int = 4, **share):
    """A figure of `count` panels in rows of `columns`; the axes beyond are taken away."""
    import matplotlib.pyplot as plt

    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(width * columns, height * rows),
        squeeze=False,
        layout="constrained",
        **share,
    )
    axes = list(grid.flat)
    for extra in axes[count:]:
        extra.remove()
    return figure, axes[:count]


def dots(axis, frame, order: list[str]) -> None:
    """The median of each submission's values as a dot, their range as a line."""
    import seaborn

    seaborn.pointplot(
        frame,
        x="value",
        y="submission",
        order=order,
        estimator="median",
        errorbar=("pi", 100),
        linestyle="none",
        color=COLOURS[0],
        ax=axis,
        markersize=4.5,
        err_kws={"linewidth": 2},
    )


def plain(name: str) -> str:
    return name.replace("$", r"\$")


def shown(board: Board) -> list[Row]:
    return board.rows[:MOST]


def palette(rows: list[Row]) -> dict[str, str]:
    return {
        plain(row.name): COLOURS[i] if i < len(COLOURS) else MUTED for i, row in enumerate(rows)
    }


def named(rows: list[Row]) -> list[str]:
    """The submissions that a legend names: those with a colour of their own."""
    return [plain(row.name) for row in rows[: len(COLOURS)]]


def legend(axes, rows: list[Row]) -> None:
    """Name the submissions beside the axes."""
    if keys := _taken(axes, named(rows)):
        place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
        axes.legend(*zip(*keys), **place, labelcolor=INK, title=None)


def shared_legend(figure, axes, names: list[str]) -> None:
    """Name below the figure what its panels share."""
    if keys := _taken(axes, names):
        place = {"loc": "outside lower center", "ncols": min(6, len(keys))}
        figure.legend(*zip(*keys), **place, labelcolor=INK)


def _taken(axes, names: list[str]) -> list[tuple]:
    """Handles and labels of these names, taken out of the axes."""
    handles, labels = axes.get_legend_handles_labels()
    if axes.get_legend():
        axes.get_legend().remove()
    return [(handle, label) for handle, label in zip(handles, labels) if label in names]


def runs_of(row: Row, key: str) -> list:
    return row.choices[key].runs if key in row.choices else []
