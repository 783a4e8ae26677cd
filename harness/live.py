"""Show a run while it trains, its verdict when it ends, and a table of many verdicts.

On a terminal one live line, elsewhere plain lines at most every ten seconds:

    gpt2/lion  loss 3.62 -> 3.28  ▇▅▃▂▂  1,250/2,000 steps  12.1 it/s  31.2 s  target ~52 s ...
"""

import math
import os
import sys
import time
from collections.abc import Sequence
from io import StringIO
from typing import Any, TextIO

from harness.outlet import redraw, say
from harness.workload import meets, primary

PLAIN_SECONDS = 10.0  # between two plain lines
LIVE_SECONDS = 0.1  # between two drawings of the live line
TREND = 8  # evaluations that the estimate is fitted to
FAR = 10  # budgets; a target estimated beyond is not shown
BARS = "▁▂▃▄▅▆▇█"
COLOURS = {"reached": "green", "out of budget": "yellow", "hopeless": "yellow"}  # others: red
CODES = {"green": "1;32", "yellow": "1;33", "red": "1;31", "grey": "2"}


def number(value: float | None) -> str:
    """Write a metric's value with what the eye needs of it: 3.28, 0.00412, 1.2e-07."""
    if value is None:
        return "-"
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    size = abs(value)
    return f"{value:.2f}" if size >= 1 else f"{value:.3g}" if size >= 1e-4 else f"{value:.1e}"


def estimate(points: Sequence[tuple[float, float]], target: float, direction: str) -> float | None:
    """Estimate the seconds at which a curve meets the target, from its last evaluations.

    Least squares of the logarithm of the distance from the metric's bound (0 for a metric that is
    to be small, 1 for a share that is to be large) on the logarithm of time: a power law.

    Args:
        points: (seconds, value) of the evaluations, in order.
        direction: "at_most" or "at_least".

    Returns:
        Seconds, inf where the trend leads away from the target, None where there is no trend yet.
    """
    sign, bound = (1.0, 0.0) if direction == "at_most" else (-1.0, 1.0)
    distance = [(s, sign * (v - bound)) for s, v in points if s > 0 and math.isfinite(v)][-TREND:]
    goal = sign * (target - bound)
    if len(distance) < 3 or goal <= 0 or min(d for _, d in distance) <= 0:
        return None
    x, y = [math.log(s) for s, _ in distance], [math.log(d) for _, d in distance]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    if spread == 0:
        return None
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / spread
    if slope >= 0:
        return math.inf
    power = mean_x + (math.log(goal) - mean_y) / slope
    return math.exp(power) if power < 700 else math.inf


def sparkline(values: Sequence[float], width: int = 12) -> str:
    """Draw the last `width` values as bars."""
    shown = [value for value in values if math.isfinite(value)][-width:]
    if len(shown) < 2:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(BARS) - 1) / ((high - low) or 1.0)
    return "".join(BARS[round((value - low) * scale)] for value in shown)


class Live:
    """The line of one run; made before the first step, closed after the last.

    Args:
        total_steps: the horizon.
        label: what runs, for example "gpt2/lion".
        goal: {metric: {"at_most" | "at_least": target}, ...}, the headline metric first.
        stream: where to; a terminal gets a live line.
    """

    def __init__(self, total_steps: int, label: str, goal: dict, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.total, self.label = total_steps, label
        self.metric, self.direction, self.target = primary(goal)
        self.points: list[tuple[float, float]] = []
        self.step, self.seconds_per_step = 0, 0.0
        self.marks: list[tuple[float, int]] = []  # (monotonic, step): the last few drawings
        self.drawn, self.unsaid, self.screen = -math.inf, False, None
        if self.stream.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live as Screen

            console = Console(file=self.stream, highlight=False)
            self.screen = Screen(console=console, auto_refresh=False, redirect_stdout=False)
            self.screen.start()

    def update(self, row: dict) -> None:
        """Take in an evaluation row."""
        self.step, seconds = row["step"], row["reference_seconds"]
        value = row["metrics"].get(self.metric)
        self.points.append((seconds, math.nan if value is None else value))
        self.seconds_per_step = seconds / self.step if self.step else 0.0
        self._draw(forced=len(self.points) == 1)

    def tick(self, step: int) -> None:
        """Say how far training is; cheap, to be called as often as one likes."""
        self.step = step
        self._draw()

    def note(self, text: str) -> None:
        """Print a line above the live line."""
        if self.screen:
            self.screen.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            say(text, self.stream)

    def close(self) -> None:
        """Draw the last state and leave the line on the screen."""
        if self.unsaid:
            self._draw(forced=True)
        if self.screen:
            self.screen.stop()
            self.screen = None

    def _draw(self, forced: bool = False) -> None:
        now = time.monotonic()
        self.unsaid = True
        if not forced and now - self.drawn < (LIVE_SECONDS if self.screen else PLAIN_SECONDS):
            return
        self.marks = [*self.marks[-49:], (now, self.step)]
        self.drawn, self.unsaid = now, False
        if self.screen:
            from rich.text import Text

            parts, room = self.parts(), self.screen.console.width
            for least in ("green", "dim"):  # a narrow terminal goes without bars, then rate
                if sum(len(part) + 2 for part, _ in parts) > room:
                    parts = [(part, style) for part, style in parts if style != least]
            text = Text(no_wrap=True, overflow="ellipsis")
            for part, style in parts:
                text.append(part + "  ", style)
            if not redraw(self.screen, text, self.stream):
                self.screen = None
        else:
            say("  ".join(part for part, _ in self.parts()), self.stream)

    def parts(self) -> list[tuple[str, str]]:
        """Return the line's parts, each with its rich style."""
        values = [value for _, value in self.points]
        now = number(values[-1]) if values else "..."
        parts = [(self.label, "bold"), (f"{self.metric} {now} -> {number(self.target)}", "cyan")]
        if self.screen and str(self.stream.encoding).lower().startswith("utf"):
            parts += [(bars, "green") for bars in [sparkline(values)] if bars]
        parts.append((f"{self.step:,}/{self.total:,} steps", ""))
        (then, first), (last, step) = self.marks[0], self.marks[-1]
        if last > then and step > first:
            parts.append((f"{(step - first) / (last - then):.3g} it/s", "dim"))
        parts.append((f"{self.step * self.seconds_per_step:.1f} s", "bold"))
        when = estimate(self.points, self.target, self.direction)
        longest = FAR * self.total * self.seconds_per_step
        if when is not None and self.points[-1][0] < when < longest:
            parts.append((f"target ~{when:.0f} s if the trend holds", "magenta"))
        return parts


def coloured(stream: TextIO) -> bool:
    """Say whether a stream is to get colours: a terminal, and no NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


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
    race = (
        f"python -m harness workload={result['workload']} submission={result['submission']}{scale}"
    )
    if outcome == "reached":
        return f"{race} seed={result.get('seed', 0) + 1}"
    if outcome in ("out of budget", "hopeless", "diverged"):
        return f"{race} 'trial=range(5)'"
    return race


HEADINGS = ["workload", "submission", "seed", "trial", "outcome", "seconds", "speed-up", "best"]


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
