"""What is said of a run that has ended: its verdict, and a table of many verdicts."""

import math
import sys
from collections.abc import Sequence
from io import StringIO
from typing import Any

from harness.catalog.goal import primary
from harness.records.judging import conditions_hold
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


def bound(value: float) -> str:
    """Write a goal's bound as it was stated: 3.28, 0.8, 1e-06, 2,000,000."""
    whole = value == round(value) and abs(value) >= 10_000
    return f"{value:,.0f}" if whole else f"{value:g}"


def seconds(value: float) -> str:
    """Write reference seconds: 47.1, 1.5, 0.023."""
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Write a duration: 40 s, 7 min, 2 h 03 min."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def unlike(value: float, other: float) -> str:
    """Write a value with as many digits as tell it from another: 0.7167 beside 0.717."""
    text = number(value)
    for digits in range(3, 17):
        if value == other or float(text) != float(f"{other:.6g}"):
            break
        text = f"{value:.{digits}g}"
    return text


def spoken(goal: dict) -> str:
    """Write a goal out: loss <= 3.28 and sparsity >= 0.8."""
    signs = {"at_most": "<=", "at_least": ">="}
    return " and ".join(
        f"{metric} {signs[rule]} {bound(value)}"
        for metric, rules in goal.items()
        for rule, value in rules.items()
    )


def verdict_lines(result: dict, reference: dict | None, colour: bool | None = None) -> list[str]:
    """Say how a run ended, where it is recorded and what to type next.

    Args:
        result: `outcome` and `goal`; `time` (reference seconds or None), `best` {metric: value},
            `reason` of a failure, `folder` of the run, `next`: command lines to type,
            `diagnosis` of the last weights.
        reference: the frozen reference's record with `time`, or None where there is none.
        colour: None asks stderr.
    """
    colour = coloured(sys.stderr) if colour is None else colour

    def paint(text: str, name: str) -> str:
        return f"\x1b[{CODES[name]}m{text}\x1b[0m" if colour else text

    outcome = result["outcome"].replace("_", " ")
    if outcome == "reached":
        text = _against(result["time"], reference)
        time = seconds(result["time"])
        rest = f" {spoken(result['goal'])} in {time} reference seconds: {text}"
    elif outcome in ("out of budget", "hopeless"):
        rest = (", ended early: " if outcome == "hopeless" else ": ") + _shortfall(result)
        if outcome == "out of budget" and result.get("reason"):
            rest += f"; ended after {result['reason']}"
    else:
        rest = f": {result['reason']}" if result.get("reason") else ""
    lines = [paint(outcome, COLOURS.get(outcome, "red")) + rest]
    if result.get("folder"):
        lines.append(f"{paint('record', 'grey')}  {result['folder']}")
    if result.get("diagnosis"):
        lines.append(f"{paint('diagnosis', 'grey')}  {_diagnosed(result['diagnosis'])}")
    labels = ["next  ", *["or    "] * 9]
    commands = zip(labels, result.get("next") or [], strict=False)
    return lines + [f"{paint(label, 'grey')}  {command}" for label, command in commands]


def _diagnosed(diagnosis: dict) -> str:
    """Say what was measured of the last weights."""
    if "error" in diagnosis:
        return f"failed: {diagnosis['error']}"

    def value_of(name: str) -> str:
        value = diagnosis.get(name)
        return "not finite" if value is None else f"{value:.3g}"

    updates = [
        f"{name.removeprefix('update_')} {value_of(name)}"
        for name in sorted(diagnosis)
        if name.startswith("update_")
    ]
    text = f"sharpness {value_of('sharpness')}; noise scale {value_of('noise_scale')} examples"
    return text + (f"; update/weight a step: {', '.join(updates)}" if updates else "")


def speedup(time: float | None, reference: dict | None) -> float | None:
    """Return how many times faster than the reference a run was; None if either has no time."""
    if not time or not reference or not reference.get("time"):
        return None
    return reference["time"] / time


def _against(time: float, reference: dict | None) -> str:
    """Say how much faster or slower than the frozen reference a time is."""
    if reference is None:
        return "there is no frozen reference to compare with"
    ratio = speedup(time, reference)
    if ratio is None:
        return "the frozen reference did not get there"
    if f"{ratio:.2f}" == "1.00":
        return f"as fast as the frozen reference ({seconds(reference['time'])} s)"
    word, factor = ("faster", ratio) if ratio > 1 else ("slower", 1 / ratio)
    return f"{factor:.2f}x {word} than the frozen reference ({seconds(reference['time'])} s)"


def _shortfall(result: dict) -> str:
    """Say how far the best value was from the target."""
    metric, direction, target = primary(result["goal"])
    best = (result.get("best") or {}).get(metric)
    if best is None or not math.isfinite(best):
        return f"no {metric} was measured; the goal is {spoken(result['goal'])}"
    short = best - target if direction == "at_most" else target - best
    if short > 0:
        side = "above" if direction == "at_most" else "below"
        value = unlike(best, target)
        return f"best {metric} {value}, {number(short)} {side} the target {bound(target)}"
    met = f"best {metric} {number(best)} met the target {bound(target)}, but "
    final = result.get("final") or {}
    for name, condition in result["goal"].items():
        if name != metric and not conditions_hold({name: condition}, final):
            limit = next(iter(condition.values()))
            value = unlike(final[name], limit) if name in final else "not measured"
            return f"{met}{name} was {value} at the end: the goal is {spoken({name: condition})}"
    return f"{met}not at two evaluations in a row"


def table(outcomes: Sequence[dict], stream: Any = None) -> str:
    """Return a sweep's results as a table: drawn by rich for a terminal, plain columns otherwise.

    Args:
        outcomes: results as for `verdict_lines`, each with its frozen `reference` or None, and
            `swept`: by heading, the values that the sweep gave it.
        stream: where the table will be printed; sys.stdout by default.
    """
    stream, rows = stream or sys.stdout, []
    swept = list(dict.fromkeys(name for result in outcomes for name in result.get("swept", {})))
    headings = [*HEADINGS[:4], *swept, *HEADINGS[4:]]
    for result in outcomes:
        metric = primary(result["goal"])[0]
        time, ratio = result.get("time"), speedup(result.get("time"), result.get("reference"))
        best = (result.get("best") or {}).get(metric)
        names = [result.get(key) for key in ("workload", "submission", "seed", "trial")]
        rows.append(
            ["-" if name is None else str(name) for name in names]
            + [result.get("swept", {}).get(name, "-") for name in swept]
            + [result["outcome"].replace("_", " "), seconds(time) if time else "-"]
            + [f"{ratio:.2f}x" if ratio else "-", f"{metric} {number(best)}"]
        )
    if not stream.isatty():
        return "\n".join(columns([headings, *rows]))
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    drawing = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        drawing.add_column(heading, no_wrap=True)
    for row in rows:
        outcome = row[4 + len(swept)]
        style = COLOURS.get(outcome, "red") if outcome != "reached" else ""
        drawing.add_row(*row, style=style)
    paper = StringIO()
    Console(file=paper, force_terminal=True, no_color=not coloured(stream)).print(drawing)
    return paper.getvalue().rstrip("\n")


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
