"""The small drawing of one submission's runs on one workload, as SVG text."""

import math
from html import escape

from harness.records.compact import thinned
from harness.report.board.cells import Choice
from harness.report.board.rows import Workload, direction_of
from harness.report.palette import FALL, spans_decades
from harness.report.run.text import seconds

WIDTH, HEIGHT, PAD = 300, 120, 6
POINTS = 60  # of a curve at most


def small(workload: Workload, choice: Choice) -> str:
    """Return the curves of runs that count (bold), of others (faint), of the reference."""
    _, direction, target = direction_of(workload)
    reference = [
        [row["step"], row["reference_seconds"], row["metrics"].get(direction_of(workload)[0])]
        for row in (workload.reference or {}).get("curve", [])
    ]
    raw = (
        [run.curve for run in choice.runs],
        [run.curve for run, use in choice.every if use != "counts"],
        [reference],
    )
    shown = [y for curve in [*raw[0], *raw[2]] for step, _, y in curve if step]
    logarithmic = target > 0 and spans_decades([*shown, target], direction)
    strong, faint, (grey,) = ([_points(curve, logarithmic) for curve in group] for group in raw)
    target = math.log10(target) if logarithmic else target
    everything = [p for line in (*strong, *faint, grey) for p in line]
    if not everything:
        return '<p class="none">no curve was recorded</p>'
    end = max(x for x, _ in everything) or 1.0
    later = [y for x, y in everything if x >= FALL * end] or [y for _, y in everything]
    spread = sorted(later)
    if direction == "at_most":  # the worst tuning trials may leave the picture too
        low, high = min(spread[0], target), max(spread[int(0.9 * (len(spread) - 1))], target)
    else:
        low, high = min(spread[0], target), max(spread[-1], target)
    margin = 0.08 * ((high - low) or abs(target) or 1.0)
    low, high = low - margin, high + margin

    def place(x: float, y: float) -> str:
        across = PAD + x / end * (WIDTH - 2 * PAD)
        down = PAD + (high - y) / (high - low) * (HEIGHT - 2 * PAD)
        return f"{across:.1f},{down:.1f}"

    def path(points: list, kind: str) -> str:
        return (
            f'<polyline class="{kind}" points="{" ".join(place(x, y) for x, y in points)}"/>'
            if len(points) > 1
            else ""
        )

    level = place(0, target).split(",")[1]
    lines = (
        [path(p, "tune") for p in faint] + [path(grey, "ref")] + [path(p, "run") for p in strong]
    )
    hits = [place(run.time, target) for run in choice.runs if math.isfinite(run.time)]
    marks = [f'<path class="hit" d="M{at}h0"/>' for at in hits]
    title = escape(
        f"{workload.key}: {seconds(end)} reference seconds wide{', logarithmic' * logarithmic}"
    )
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title}" preserveAspectRatio="none">'
        f'<line class="goal" x1="0" x2="{WIDTH}" y1="{level}" y2="{level}"/>'
        f"{''.join(lines)}{''.join(marks)}</svg>"
    )


def _points(curve: list, logarithmic: bool) -> list[tuple[float, float]]:
    """Return (seconds, value or its logarithm) of the finite part of a curve, thinned."""
    found = [(x, y) for _, x, y in curve if y is not None and math.isfinite(y) and math.isfinite(x)]
    found = [(x, y) for x, y in found if y > 0 or not logarithmic]
    return thinned([(x, math.log10(y) if logarithmic else y) for x, y in found], POINTS)
