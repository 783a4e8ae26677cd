"""Colours, fonts and labels that the pictures of runs share."""

INK, MUTED, GRID = "#1f2937", "#8a94a6", "#e9ecf1"
RUN, REFERENCE, TARGET = "#2563eb", "#9aa3b2", "#d97706"
DOTS_PER_INCH = 160
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: no search, the same everywhere
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def label(axes, value: float, text: str, colour: str) -> None:
    """Write a line's name at its right end, outside the axes."""
    axes.annotate(
        text,
        (1.0, value),
        xycoords=axes.get_yaxis_transform(),
        xytext=(6, 0),
        textcoords="offset points",
        color=colour,
        fontsize=9.5,
        va="center",
        annotation_clip=False,
    )
