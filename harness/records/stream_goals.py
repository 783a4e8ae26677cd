"""Metrics of a stream that are known only where a goal names them.

With A_i(n) the mean goodness of group i after n steps, T_i the last step of task i:

    last_learning   mean of A_i(T_i) over the last quarter of the tasks: can it still learn?
    harmonic        2bf/(b + f), b = A_1(n), f the mean of A_i(n) over the later tasks
    prequential     mean of A_i(T_(i-1)) over the last half of the tasks: judged, then learnt
"""

from collections.abc import Callable
from statistics import fmean

from harness.catalog.goal import primary
from harness.records.stream_history import History


def last_learning(past: History, step: int) -> float:
    """Return the mean of R_i,i over the last quarter of the tasks that are over; before, 0."""
    over = [i for i, end in enumerate(past.ends) if end <= step]
    late = over[-max(1, len(past.ends) // 4) :]
    return fmean([past.at(i, past.ends[i]) for i in late]) if late else 0.0


def harmonic(past: History, step: int) -> float:
    """Return the harmonic mean of the first task's quality and that of the later ones."""
    first, *later = [past.at(i, step) for i in range(past.tasks_begun(step))]
    if not later:
        return first
    rest = fmean(later)
    return 2 * first * rest / (first + rest) if first + rest else 0.0


def prequential(past: History, step: int) -> float:
    """Return the mean goodness of a task just before it began, over the last half of the tasks."""
    begun = range(max(1, len(past.ends) // 2), past.tasks_begun(step + 1))
    values = [past.at(i, past.ends[i - 1]) for i in begun if past.ends[i - 1] <= step]
    # Before the last half has begun, the first task's own.
    return fmean(values) if values else past.at(0, step)


# Metrics that are known where a goal names them.
ASKED: dict[str, Callable] = {
    "last_learning": last_learning,
    "harmonic": harmonic,
    "prequential": prequential,
}


def asked(block: dict) -> dict[str, Callable]:
    """Return the metric that the goal names, if it is one of these."""
    name = primary(block["goal"])[0]
    if name not in ASKED:
        return {}
    return {name: lambda past, _: (past.sign * ASKED[name](past, past.steps[-1]), None)}
