"""Compute the metrics of a stream from the raw counts of its log alone.

An evaluation gives [sum of quality, examples] for each evaluated group; group i is task i. Let
A_i(n) be the mean quality of group i after n steps, T_i the last step of task i, N the number of
tasks, k the number of tasks begun, and R_j,i = A_i(T_j):

    average (ACC)         1/k sum_{i<=k} A_i(n)
    learning              1/N sum_i R_i,i                                       (Riemer et al.)
    anytime (AAA)         mean over evaluations n >= 1 of the average there
    forgetting            1/(N-1) sum_{i<N} R_i,i - R_N,i                       (Lopez-Paz: -BWT)
    forgetting_past_best  1/(N-1) sum_{i<N} max_{i<=l<N} R_l,i - R_N,i          (Chaudhry et al.)
    forgetting_ever_best  the same with the maximum over i <= l <= N, never below 0   (Mammoth)
    forgetting_all_pairs  2/(N(N-1)) sum_{j<i} R_j,j - R_i,j                    (CapyMOA, continuum)
    minimum (min-ACC)     1/(N-1) sum_{i<N} min_{n > T_i} A_i(n)
    worst_case (WC-ACC)   A_k(n)/k + (1 - 1/k) * the minimum over the tasks before k
    fall_w (WF^w)         mean over tasks of the largest fall within w evaluations in a row
    rise_w (WP^w)         mean over tasks of the largest rise within w evaluations in a row
    gap_depth             at a switch: A just before it minus the smallest A during the next task,
                          the largest over old tasks; mean over switches
    gap_depth_most        the largest over switches of the same
    gap_area              at a switch: the integral over steps of how far A is below its value
                          before the switch, summed over old tasks; mean over switches
    gap_area_transient    the same, relative to A at the end of the next task if that is lower
    gap_recovery          steps from the switch until all old tasks are at 90 % again, after the
                          first fall below 90 %; mean over switches that fell and recovered

Signs for a loss, where less is better: falls, forgetting and gaps are rises of the loss, so all are
positive when bad; minimum is the maximum; 90 % is 1/0.9 times the loss; averages are plain losses.

There are two conventions (De Lange et al., arXiv 2205.13452, as written and as coded). `strict`
follows the definitions: windows begin with the evaluation before a task's first update, a task
needs two points, values may be negative. `delange_code` leaves out that evaluation except for task
1; its falls and rises are never below 0, and a rise starts only at a running best of its window.
Each metric is a value, or None with a reason. If any value is not finite, all metrics are None.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from harness.catalog.goal import primary
from harness.records import stream_budget
from harness.records.stream_goals import ASKED, asked
from harness.records.stream_history import History, history

CONVENTIONS = ("strict", "delange_code")
WINDOWS = (10, 100)
# A task has recovered at this share of its quality before the switch.
RECOVERED = 0.9
Measured = tuple[float | None, str | None]


def running(block: dict, rows: list[dict], step: int | None = None) -> dict[str, float]:
    """Return the goal's metrics after `step` steps: the average and the worst case.

    Args:
        step: None for the last step.
    """
    past = history(block, rows)
    name, step = primary(block["goal"])[0], past.steps[-1] if step is None else step
    if name in ASKED:
        return {name: past.sign * ASKED[name](past, step)}
    if past.recurring:
        return {name: past.sign * _mean([past.at(i, step) for i in range(len(past.groups))])}
    begun = past.tasks_begun(step)
    now = [past.at(i, step) for i in range(begun)]
    minima = [
        min((v for _, v in past.after(i, past.ends[i], step)), default=now[i])
        for i in range(begun - 1)
    ]
    if not all(map(math.isfinite, [*now, *minima])):
        return {name: math.nan, f"worst_case_{name}": math.nan}
    worst = (now[-1] + sum(minima)) / begun
    return {name: past.sign * _mean(now), f"worst_case_{name}": past.sign * worst}


def goal_metrics(
    block: dict, rows: list[dict], memory: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the goal's metrics at the last row's step and at the evaluation before it.

    Args:
        memory: bytes of state at the last row.
    """
    steps = history(block, rows).steps
    before = steps[-2] if len(steps) > 1 else steps[-1]
    extra = {"memory": float(memory)} | stream_budget.adjusted_steps(block, rows)
    return running(block, rows) | extra, running(block, rows, before) | extra


def report(block: dict, rows: list[dict]) -> dict:
    """Return every metric by both conventions: {convention: {metric: {"value"} or {"reason"}}}."""
    past = history(block, rows)
    every = block["evaluate"].get("every", 0)
    metrics: dict = {"window": "evaluations", "every": every, "evaluations": len(past.steps)}
    for convention in CONVENTIONS:
        metrics[convention] = {}
        for name, metric in (METRICS | asked(block)).items():
            value, reason = measured(past, metric, convention)
            metrics[convention][name] = {"reason": reason} if value is None else {"value": value}
    return metrics


def measured(past: History, metric: Callable, convention: str) -> Measured:
    """Return a metric's value, or None and the reason why it has none."""
    for points in past.groups:
        for n, value in points:
            if not math.isfinite(value):
                return None, f"not finite at step {past.steps[n]}"
    if not past.whole:
        return None, "the stream was not run to its end"
    return metric(past, convention)


def _tasks_end(metric: Callable) -> Callable:
    """Return the metric for streams of at least two tasks that end, a reason for other streams."""

    def checked(past: History, convention: str) -> Measured:
        if past.recurring:
            return None, "tasks come back: none is over"
        if len(past.ends) < 2:
            return None, "one task has no past"
        value = metric(past, convention)
        return value if isinstance(value, tuple) else (value, None)

    return checked


def _average(past: History, convention: str) -> Measured:
    return past.sign * _mean([points[-1][1] for points in past.groups]), None


def _learning(past: History, convention: str) -> Measured:
    if past.recurring:
        return None, "tasks come back: none is over"
    return past.sign * _mean([past.at(i, end) for i, end in enumerate(past.ends)]), None


def _anytime(past: History, convention: str) -> Measured:
    values = [dict(points) for points in past.groups]
    means = []
    for n, step in enumerate(past.steps):
        count = len(past.groups) if past.recurring else past.tasks_begun(step)
        if step:
            means.append(_mean([values[i][n] for i in range(count)]))
    return past.sign * _mean(means), None


def _forgetting(best: Callable) -> Callable:
    """Return the metric: mean over old tasks of best(R_i,i ... R_N,i) minus R_N,i."""

    def metric(past: History, convention: str) -> float:
        old = range(len(past.ends) - 1)
        rows = [[past.at(i, end) for end in past.ends[i:]] for i in old]
        return _mean([best(values) - values[-1] for values in rows])

    return _tasks_end(metric)


def _all_pairs(past: History, convention: str) -> float:
    pairs = [(i, j) for i in range(len(past.ends)) for j in range(i)]
    return _mean([past.at(j, past.ends[j]) - past.at(j, past.ends[i]) for i, j in pairs])


def _minimum(past: History, convention: str) -> float:
    old = range(len(past.ends) - 1)
    least = [min(v for _, v in past.after(i, past.ends[i], past.ends[-1])) for i in old]
    return past.sign * _mean(least)


def _worst_case(past: History, convention: str) -> Measured:
    if past.recurring:
        return None, "tasks come back: none is over"
    k, last = len(past.ends), past.sign * past.groups[-1][-1][1]
    # one task has no past, and its share of the formula is 0
    old = (1 - 1 / k) * _minimum(past, convention) if k > 1 else 0.0
    return last / k + old, None


def extreme(values: Sequence[float], width: int, rise: bool, pruned: bool) -> float | None:
    """Return the largest fall (or rise) from an earlier to a later of `width` values in a row.

    Return None if there are fewer than two values.

    Args:
        pruned: within a window, skip a start that is below the best start so far.
    """
    if len(values) < 2:
        return None
    best = -math.inf
    for end in range(1, len(values)):
        # The pairs (m, end) of one window have m >= end - width + 1.
        first, top = max(0, end - width + 1), -math.inf
        for m in range(first, end):
            if pruned and values[m] < top:
                continue
            top = max(top, values[m])
            best = max(best, values[end] - values[m] if rise else values[m] - values[end])
    return best


def _window(width: int, rise: bool) -> Callable:
    """Return the metric of the largest fall or rise within `width` evaluations."""

    def metric(past: History, convention: str) -> Measured:
        delange, changes = convention == "delange_code", []
        for i, points in enumerate(past.groups):
            # The evaluation at the end of the task before is not after the first update.
            first = 0 if past.recurring or not i else past.ends[i - 1] + 1
            values = [v for n, v in points if not delange or past.steps[n] >= first]
            change = extreme(values, width, rise, pruned=delange and rise)
            if change is None and not delange:
                return None, f"task {i + 1} was evaluated fewer than two times"
            changes.append(max(0.0, change or 0.0) if delange else change)
        return _mean(changes), None

    return metric


def _switches(past: History) -> list[list[tuple[float, list[tuple[int, float]]]]]:
    """Return for each switch and old task its value before, and (steps since, value) after."""
    switches = []
    for k, (end, following) in enumerate(pairwise(past.ends), start=1):
        old = []
        for i in range(k):
            points = [(n - end, v) for n, v in past.after(i, end, following)]
            old.append((past.at(i, end), points))
        switches.append(old)
    return switches


def _depths(past: History) -> list[float]:
    return [
        max(before - min(v for _, v in points) for before, points in old) for old in _switches(past)
    ]


def _area(transient: bool) -> Callable:
    """Return the metric of the area of the gap; `transient` without what is never recovered."""

    def metric(past: History, convention: str) -> float:
        areas = []
        for old in _switches(past):
            total = 0.0
            for before, points in old:
                level = before
                if transient:
                    last = points[-max(5, math.ceil(0.1 * len(points))) :]
                    level = min(before, _mean([v for _, v in last]))
                deficits = [(n, max(0.0, level - v)) for n, v in [(0, before), *points]]
                total += sum((b - a) * (x + y) / 2 for (a, x), (b, y) in pairwise(deficits))
            areas.append(total)
        return _mean(areas)

    return _tasks_end(metric)


def _recovery(past: History, convention: str) -> Measured:
    steps = []
    for old in _switches(past):
        levels = [before * RECOVERED if before >= 0 else before / RECOVERED for before, _ in old]
        fell_at = None
        for moments in zip(*(points for _, points in old)):
            low = any(v < level for (_, v), level in zip(moments, levels))
            fell_at = moments[0][0] if fell_at is None and low else fell_at
            if fell_at is not None and not low:
                steps.append(moments[0][0])
                break
    return (_mean(steps), None) if steps else (None, "no switch fell below 90 % and recovered")


def _mean(values: Sequence) -> float:
    return math.fsum(values) / len(values)


METRICS: dict[str, Callable] = {
    "average": _average,
    "learning": _learning,
    "anytime": _anytime,
    "forgetting": _forgetting(lambda values: values[0]),
    "forgetting_past_best": _forgetting(lambda values: max(values[:-1])),
    "forgetting_ever_best": _forgetting(max),
    "forgetting_all_pairs": _tasks_end(_all_pairs),
    "minimum": _tasks_end(_minimum),
    "worst_case": _worst_case,
    **{f"fall_{width}": _window(width, rise=False) for width in WINDOWS},
    **{f"rise_{width}": _window(width, rise=True) for width in WINDOWS},
    "gap_depth": _tasks_end(lambda past, convention: _mean(_depths(past))),
    "gap_depth_most": _tasks_end(lambda past, convention: max(_depths(past))),
    "gap_area": _area(transient=False),
    "gap_area_transient": _area(transient=True),
    "gap_recovery": _tasks_end(_recovery),
}
