"""Show a run, or the trials of a sweep, while they train.

On a terminal one live line, elsewhere plain lines at most every ten seconds:

    gpt2/lion  loss 3.62 -> 3.28  ▇▅▃▂▂  1,250/2,000 steps  12.1 it/s  31.2 s  target ~52 s ...
"""

import math
import os
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from harness.catalog.goal import primary
from harness.report.run.text import number, seconds
from harness.system.terminal import redraw, say

PLAIN_SECONDS = 10.0  # between two plain lines
PLAIN_LONGEST = 120.0  # between two plain blocks of a sweep, in the end
LIVE_SECONDS = 0.1  # between two drawings of the live line
TREND = 8  # evaluations that the estimate is fitted to
BARS = "▁▂▃▄▅▆▇█"


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


class Output:
    """Lines for a reader: on a terminal some stay at its foot and are drawn anew.

    Attributes:
        screen: the lines at the foot; None where the stream is not a terminal, or its reader is
            gone.
    """

    def __init__(self, stream: TextIO | None = None):
        self.stream, self.screen = stream or sys.stderr, None
        if self.stream.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live as Screen

            console = Console(file=self.stream, highlight=False)
            self.screen = Screen(console=console, auto_refresh=False, redirect_stdout=False)
            self.screen.start()

    def note(self, text: str) -> None:
        """Print a line above those at the foot."""
        if self.screen:
            self.screen.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            say(text, self.stream)

    def redraw(self, parts: Sequence[tuple[str, str]]) -> None:
        """Show other lines at the foot, given as parts with their rich styles."""
        from rich.text import Text

        text = Text(no_wrap=True, overflow="ellipsis")
        for part, style in parts:
            text.append(part, style)
        if not redraw(self.screen, text, self.stream):
            self.screen = None


class Live(Output):
    """The line of one run; made before the first step, closed after the last.

    Args:
        total_steps: the horizon.
        label: what runs, for example "gpt2/lion".
        goal: {metric: {"at_most" | "at_least": target}, ...}, the headline metric first.
        stream: where to; a terminal gets a live line.
    """

    def __init__(self, total_steps: int, label: str, goal: dict, stream: TextIO | None = None):
        super().__init__(stream)
        self.total, self.label = total_steps, label
        self.metric, self.direction, self.target = primary(goal)
        self.points: list[tuple[float, float]] = []
        self.step, self.seconds_per_step = 0, 0.0
        self.marks: list[tuple[float, int]] = []  # (monotonic, step): the last few drawings
        self.drawn, self.unsaid = -math.inf, False

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
            parts, room = self.parts(), self.screen.console.width
            for least in ("green", "dim"):  # a narrow terminal goes without bars, then rate
                if sum(len(part) + 2 for part, _ in parts) > room:
                    parts = [(part, style) for part, style in parts if style != least]
            self.redraw([(part + "  ", style) for part, style in parts])
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
        parts.append((f"{seconds(self.step * self.seconds_per_step)} s", "bold"))
        when = self._expected()
        if when is not None:
            short = f"{when:.0f}" if when >= 10 else f"{when:.2g}"
            parts.append((f"target ~{short} s if the trend holds", "magenta"))
        return parts

    def _expected(self) -> float | None:
        """Return the estimated seconds at the target; None if it is met or beyond the budget."""
        when = estimate(self.points, self.target, self.direction)
        if when is None:
            return None
        reached, value = self.points[-1]
        met = value <= self.target if self.direction == "at_most" else value >= self.target
        within = reached < when <= self.total * self.seconds_per_step
        return when if within and not met else None


class SweepLines(Output):
    """The lines of a sweep: how many trials have ended, and one line for each running trial.

    Args:
        stream: where to; a terminal gets lines that are drawn anew, others a block now and then.
    """

    def __init__(self, stream: TextIO | None = None):
        super().__init__(stream)
        self.drawn, self.pause = -math.inf, PLAIN_SECONDS

    def draw(self, head: str, running: Sequence[str], forced: bool = False) -> None:
        """Show the present state: a headline, and a line for each running trial.

        Plain lines come at growing intervals, for a sweep may take days.
        """
        now = time.monotonic()
        if not self.screen:
            if forced or now - self.drawn >= self.pause:
                self.pause = PLAIN_SECONDS if forced else min(self.pause * 1.5, PLAIN_LONGEST)
                self.drawn = now
                say("\n".join([head, *(f"  {line}" for line in running)]), self.stream)
            return
        self.redraw([(head, "bold"), *((f"\n  {line}", "") for line in running)])

    def close(self) -> None:
        """Remove the lines: the table that follows says the same."""
        if self.screen:
            self.screen.update("", refresh=True)
            self.screen.stop()
            self.screen = None
