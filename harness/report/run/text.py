"""What is said of a run that has ended: its verdict, and a table of many verdicts."""

import math
import sys
from collections.abc import Sequence
from io import StringIO
from typing import Any

from harness.catalog.goal import meets, primary
from harness.system.terminal import coloured

COLOURS = {"reached": "green", "out of budget": "yellow", "hopeless": "yellow"}  # others: red
CODES = {"green": "1;32", "yellow": "1;33", "red": "1;31", "grey": "2"}
HEADINGS = ["workload", "submission", "seed", "trial", "outcome", "seconds", "speed-up", "best"]


def number(value: float | None) -> str:
    """Write a metric's value with what the eye needs of it: 3.28, 0.00412, 1.2e-07."""
    if value is None:
        return "-"
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    size = abs(value)
    return f"{value:.2f}" if size >= 1 else f"{value:.3g}" if size >= 1e-4 else f"{value:.1e}"


def spoken(goal: dict) -> str:
    """Write a goal out: loss <= 3.28 and sparsity >= 0.8."""
    signs = {"at_most": "<=", "at_least": ">="}
    return " and ".join(
        f"{metric} {signs[rule]} {value:g}"
        for metric, rules in goal.items()
        for rule, value in rules.items()
    )


def verdict_lines(result: dict, reference: dict | None, colour: bool | None = None) -> list[str]:
    """Say how a run ended, where it is recorded and what to type next.

    Args:
        result: `outcome` and `goal`; `time` (reference seconds or None), `best` {metric: value},
            `reason` of a failure, `folder` of the run, `next` command; or, for the default of
            the latter, `workload`, `submission`, `scale` and `seed`.
        reference: the frozen reference's record with `time`, or None where there is none.
        colour: None asks stderr.
    """
    colour = coloured(sys.stderr) if colour is None else colour

    def paint(text: str, name: str) -> str:
        return f"\x1b[{CODES[name]}m{text}\x1b[0m" if colour else text

    outcome = result["outcome"].replace("_", " ")
    if outcome == "reached":
        told = _against(result["time"], reference)
        rest = f" {spoken(result['goal'])} in {result['time']:.1f} reference seconds: {told}"
    elif outcome in ("out of budget", "hopeless"):
        rest = (", ended early: " if outcome == "hopeless" else ": ") + _shortfall(result)
    else:
        rest = f": {result['reason']}" if result.get("reason") else ""
    lines = [paint(outcome, COLOURS.get(outcome, "red")) + rest]
    if result.get("folder"):
        lines.append(f"{paint('record', 'grey')}  {result['folder']}")
    command = result.get("next") or _next(result, outcome)
    return [*lines, f"{paint('next  ', 'grey')}  {command}"] if command else lines


def speedup(seconds: float | None, reference: dict | None) -> float | None:
    """Return how many times faster than the reference a run was; None if either has no time."""
    if not seconds or not reference or not reference.get("time"):
        return None
    return reference["time"] / seconds


def _against(seconds: float, reference: dict | None) -> str:
    if reference is None:
        return "there is no frozen reference to compare with"
    ratio = speedup(seconds, reference)
    if ratio is None:
        return "the frozen reference did not get there"
    if f"{ratio:.2f}" == "1.00":
        return f"as fast as the frozen reference ({reference['time']:.1f} s)"
    word, factor = ("faster", ratio) if ratio > 1 else ("slower", 1 / ratio)
    return f"{factor:.2f}x {word} than the frozen reference ({reference['time']:.1f} s)"


def _shortfall(result: dict) -> str:
    """Say how far the best value was from the target."""
    metric, direction, target = primary(result["goal"])
    best = (result.get("best") or {}).get(metric)
    if best is None or not math.isfinite(best):
        return f"no {metric} was measured; the goal is {spoken(result['goal'])}"
    short = best - target if direction == "at_most" else target - best
    if short > 0:
        side = "above" if direction == "at_most" else "below"
        return f"best {metric} {number(best)}, {number(short)} {side} the target {target:g}"
    told = f"best {metric} {number(best)} met the target {target:g}, but "
    final = result.get("final") or {}
    for name, condition in result["goal"].items():
        if name != metric and not meets({name: condition}, final):
            seen = number(final[name]) if name in final else "not measured"
            return f"{told}{name} was {seen} at the end: the goal is {spoken({name: condition})}"
    return f"{told}the goal was not held"


def _next(result: dict, outcome: str) -> str:
    """Return the command that a user most likely wants next."""
    if "workload" not in result or "submission" not in result:
        return ""
    scale = f" scale={result['scale']}" if result.get("scale", "mini") != "mini" else ""
    variant = f" variant={result['variant']}" if result.get("variant") else ""
    race = (
        f"python -m harness workload={result['workload']} submission={result['submission']}"
        f"{scale}{variant}"
    )
    if outcome == "reached":
        return f"{race} seed={result.get('seed', 0) + 1}"
    if outcome in ("out of budget", "hopeless", "diverged"):
        return f"{race} 'trial=range(5)'"
    return race


def table(outcomes: Sequence[dict], stream: Any = None) -> str:
    """Return a sweep's results as a table: drawn by rich for a terminal, plain columns otherwise.

    Args:
        outcomes: results as for `verdict_lines`, each with its frozen `reference` or None.
        stream: where the table will be printed; sys.stdout by default.
    """
    stream, rows = stream or sys.stdout, []
    for result in outcomes:
        metric = primary(result["goal"])[0]
        seconds, ratio = result.get("time"), speedup(result.get("time"), result.get("reference"))
        best = (result.get("best") or {}).get(metric)
        names = [result.get(key) for key in ("workload", "submission", "seed", "trial")]
        rows.append(
            ["-" if name is None else str(name) for name in names]
            + [result["outcome"].replace("_", " "), f"{seconds:.1f}" if seconds else "-"]
            + [f"{ratio:.2f}x" if ratio else "-", f"{metric} {number(best)}"]
        )
    if not stream.isatty():
        widths = [max(map(len, column)) for column in zip(HEADINGS, *rows)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in [HEADINGS, *rows])
        return "\n".join(lines)
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    drawing = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in HEADINGS:
        drawing.add_column(heading, no_wrap=True)
    for row in rows:
        drawing.add_row(*row, style=COLOURS.get(row[4], "red") if row[4] != "reached" else "")
    paper = StringIO()
    Console(file=paper, force_terminal=True, no_color=not coloured(stream)).print(drawing)
    return paper.getvalue().rstrip("\n")
