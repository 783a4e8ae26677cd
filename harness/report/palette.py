"""The colours of every figure: of runs, of boards, of the page and of documents.

The goal has one colour, which no curve has.
"""

INK, MUTED, GRID = "#1f2937", "#6b7688", "#e3e7ee"
RUN, REFERENCE, GOAL = "#2563eb", "#98a2b3", "#d97706"
SERIES = (
    RUN, "#db2777", "#059669", "#7c3aed", "#0891b2", "#dc2626", "#65a30d", "#7f5539",
)  # fmt: skip
PALE = "#c9d0db"  # curves that are too many to tell apart
GOAL_LINE = {"color": GOAL, "linewidth": 1.2, "dashes": (5, 3)}
REFERENCE_LINE = {"color": REFERENCE, "linewidth": 1.4, "linestyle": (0, (1, 1))}
FALL = 0.12  # of the time: a metric's values before may leave the picture
DECADES = 30.0  # largest over smallest value from which a logarithmic axis shows more


def spans_decades(values: list, direction: str) -> bool:
    """Return True if a metric that is to be small is better shown on a logarithmic axis."""
    finite = [value for value in values if value is not None and abs(value) < float("inf")]
    if direction != "at_most" or not finite or min(finite) <= 0:
        return False
    return max(finite) > DECADES * min(finite)
