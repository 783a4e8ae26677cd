"""The tables of what was raced on each workload, for docs/workloads/, from the committed records.

A row is a submission whose point was tuned: best of three points or more, then fresh seeds. Those
that reach the goal come first, by time, then the others by the goal's first metric.
"""

import math
from collections.abc import Sequence
from functools import cache
from statistics import fmean

from harness.catalog.goal import primary
from harness.records.run import RecordedRun
from harness.report.board.cells import Choice
from scripts.board_tables import by_track

SIGNS = {"at_least": -1, "at_most": 1}


def raced(choices: dict[str, Choice]) -> list[str]:
    """Return the table of one workload's tuned submissions, or no line if it has none.

    Args:
        choices: the runs of each submission on the workload, by name.
    """
    tuned = {name: c for name, c in choices.items() if c.tuned and _fresh(c.runs)}
    if not tuned:
        return []
    goal = next(iter(tuned.values())).runs[0].record["goal"]
    metric, direction, _ = primary(goal)
    lines = [
        f"| submission | seeds | reference s | share | {' | '.join(map(_words, goal))} |",
        f"| --- | ---: | ---: | ---: |{' ---: |' * len(goal)}",
    ]

    def place(item: tuple[str, Choice]) -> tuple:
        name, choice = item
        mean = fmean(values(choice.runs, metric) or [math.inf * SIGNS[direction]])
        met = choice.cell.met
        return not met, choice.cell.time if met else SIGNS[direction] * mean, name

    for name, choice in sorted(tuned.items(), key=place):
        reached = sum(math.isfinite(run.time) for run in choice.runs)
        time = f"{choice.cell.time:.3g}" if choice.cell.met else "miss"
        cells = [_range(values(choice.runs, each), each) for each in goal]
        seeds = f"{reached} of {len(choice.runs)}"
        lines.append(f"| {name} | {seeds} | {time} | {choice.budget:.2g} | {' | '.join(cells)} |")
    return lines


def _fresh(runs: Sequence[RecordedRun]) -> bool:
    return any(run.record["trial"] is None for run in runs)


def values(runs: Sequence[RecordedRun], metric: str) -> list[float]:
    """Return a metric of each run: the goal's first at its best, the others at the end."""
    tables = [{**(run.record.get("final") or {}), **(run.record.get("best") or {})} for run in runs]
    found = [table.get(metric) for table in tables]
    return [value for value in found if value is not None and math.isfinite(value)]


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _range(values: Sequence[float], metric: str) -> str:
    """Return the least and the largest of some values, one if they look alike: 0.41 to 0.43."""
    ends = [in_words(metric, value) for value in (min(values), max(values))] if values else ["–"]
    return " to ".join(dict.fromkeys(ends))


def in_words(metric: str, value: float) -> str:
    """Return the value of a metric in three digits; memory in MB."""
    if is_memory(metric):
        return f"{value / 1e6:.3g} MB"
    return f"{value:.3g}".replace("e-0", "e-")


def is_memory(metric: str) -> bool:
    """Return True for memory and training_memory, in bytes."""
    return metric.endswith("memory")


@cache
def by_workload() -> dict[str, dict[str, Choice]]:
    """Return the runs that count by workload and submission, from results/board/."""
    found: dict[str, dict[str, Choice]] = {}
    for board in by_track().values():
        for row in board.rows:
            for key, choice in row.choices.items():
                if choice.runs:
                    found.setdefault(key, {})[row.name] = choice
    return found
