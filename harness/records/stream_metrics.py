"""Metrics of a stream, computed from the raw counts of its log and from nothing else.

An evaluation gives [sum of quality, examples] for each evaluated group; group i is task i. With
A_i(n) the mean quality of group i after n steps, T_i the last step of task i, N tasks, k of them
seen, and R_j,i = A_i(T_j):

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
    rise_w (WP^w)         the same of the largest rise
    gap_depth             at a switch: the largest over old tasks of A just before it less the least
                          during the next task; mean over switches;  gap_depth_most: the largest
    gap_area              at a switch: sum over old tasks of the integral (quality x steps) of what
                          A lacks of its value before the switch; mean over switches
    gap_area_transient    the same against what remains at the end of the next task, if that is less
    gap_recovery          steps from the switch until, after the first fall below 90 %, all old
                          tasks have 90 % again; mean over switches that fell and recovered

Signs: where less is better (a loss), falls, forgetting and gaps are rises of the loss, all positive
when bad, minimum is the maximum, 90 % is 1/0.9 times the loss; averages are losses as they are.

Conventions (De Lange et al., arXiv 2205.13452, as written and as coded): `strict` follows the
definitions: windows begin with the evaluation before a task's first update, a task needs two
points, values may be negative. `delange_code`: without that evaluation except for task 1, falls and
rises never below 0, and rises start only at a running best of their window. Each metric is a value,
or None with a reason. A value that is not finite anywhere makes all of them None.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from harness.catalog.goal import primary
from harness.records.stream_history import History, history

CONVENTIONS = ("strict", "delange_code")
WINDOWS = (10, 100)
KEPT = 0.9  # of the quality before a switch: at this a task counts as recovered
Measured = tuple[float | None, str | None]


def running(block: dict, rows: list[dict], step: int | None = None) -> dict[str, float]:
    """The goal's metrics after `step` steps (None: the last): the average and the worst case."""
    seen = history(block, rows)
    name, step = primary(block["goal"])[0], seen.steps[-1] if step is None else step
    if seen.recurring:
        return {name: seen.sign * _mean([seen.at(i, step) for i in range(len(seen.groups))])}
    k = seen.seen(step)
    now = [seen.at(i, step) for i in range(k)]
    least = [
        min((v for _, v in seen.after(i, seen.ends[i], step)), default=now[i]) for i in range(k - 1)
    ]
    if not all(map(math.isfinite, [*now, *least])):
        return {name: math.nan, f"worst_case_{name}": math.nan}
    worst = (now[-1] + sum(least)) / k
    return {name: seen.sign * _mean(now), f"worst_case_{name}": seen.sign * worst}


def goal_metrics(
    block: dict, rows: list[dict], memory: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the goal's metrics at the last row's step and at the evaluation before it.

    Args:
        memory: bytes of state at the last row.
    """
    steps = history(block, rows).steps
    before = steps[-2] if len(steps) > 1 else steps[-1]
    extra = {"memory": float(memory)}
    return running(block, rows) | extra, running(block, rows, before) | extra


def report(block: dict, rows: list[dict]) -> dict:
    """Every metric under both conventions: {convention: {metric: {"value"} or {"reason"}}}."""
    seen = history(block, rows)
    every = block["evaluate"].get("every", 0)
    made: dict = {"window": "evaluations", "every": every, "evaluations": len(seen.steps)}
    for convention in CONVENTIONS:
        made[convention] = {}
        for name, metric in METRICS.items():
            value, reason = measured(seen, metric, convention)
            made[convention][name] = {"reason": reason} if value is None else {"value": value}
    return made


def measured(seen: History, metric: Callable, convention: str) -> Measured:
    """A metric's value, or the reason why it has none."""
    for points in seen.groups:
        for n, value in points:
            if not math.isfinite(value):
                return None, f"not finite at step {seen.steps[n]}"
    if not seen.whole:
        return None, "the stream was not run to its end"
    return metric(seen, convention)


def _tasks_end(metric: Callable) -> Callable:
    """For metrics of at least two tasks that end: a reason for other streams."""

    def checked(seen: History, convention: str) -> Measured:
        if seen.recurring:
            return None, "tasks come back: none is over"
        if len(seen.ends) < 2:
            return None, "one task has no past"
        value = metric(seen, convention)
        return value if isinstance(value, tuple) else (value, None)

    return checked


def _average(seen: History, convention: str) -> Measured:
    return seen.sign * _mean([points[-1][1] for points in seen.groups]), None


def _learning(seen: History, convention: str) -> Measured:
    if seen.recurring:
        return None, "tasks come back: none is over"
    return seen.sign * _mean([seen.at(i, end) for i, end in enumerate(seen.ends)]), None


def _anytime(seen: History, convention: str) -> Measured:
    known = [dict(points) for points in seen.groups]
    means = []
    for n, step in enumerate(seen.steps):
        count = len(seen.groups) if seen.recurring else seen.seen(step)
        if step:
            means.append(_mean([known[i][n] for i in range(count)]))
    return seen.sign * _mean(means), None


def _forgetting(best: Callable) -> Callable:
    """Mean over old tasks of best(R_i,i ... R_N,i) less R_N,i."""

    def metric(seen: History, convention: str) -> float:
        old = range(len(seen.ends) - 1)
        rows = [[seen.at(i, end) for end in seen.ends[i:]] for i in old]
        return _mean([best(values) - values[-1] for values in rows])

    return _tasks_end(metric)


def _all_pairs(seen: History, convention: str) -> float:
    pairs = [(i, j) for i in range(len(seen.ends)) for j in range(i)]
    return _mean([seen.at(j, seen.ends[j]) - seen.at(j, seen.ends[i]) for i, j in pairs])


def _minimum(seen: History, convention: str) -> float:
    old = range(len(seen.ends) - 1)
    least = [min(v for _, v in seen.after(i, seen.ends[i], seen.ends[-1])) for i in old]
    return seen.sign * _mean(least)


def _worst_case(seen: History, convention: str) -> float:
    k = len(seen.ends)
    last = seen.sign * seen.groups[-1][-1][1]
    return last / k + (1 - 1 / k) * _minimum(seen, convention)


def extreme(values: Sequence[float], width: int, rise: bool, pruned: bool) -> float | None:
    """Largest fall (or rise) from an earlier to a later of `width` values in a row; None below two.

    Pruned: within a window, a start below its best start so far is passed over.
    """
    if len(values) < 2:
        return None
    best = -math.inf
    for end in range(1, len(values)):  # pairs (m, end) of one window: m from end - width + 1 on
        first, top = max(0, end - width + 1), -math.inf
        for m in range(first, end):
            if pruned and values[m] < top:
                continue
            top = max(top, values[m])
            best = max(best, values[end] - values[m] if rise else values[m] - values[end])
    return best


def _window(width: int, rise: bool) -> Callable:
    def metric(seen: History, convention: str) -> Measured:
        code, each = convention == "delange_code", []
        for i, points in enumerate(seen.groups):
            first = 0 if seen.recurring or not i else seen.ends[i - 1] + 1  # after the first update
            values = [v for n, v in points if not code or seen.steps[n] >= first]
            found = extreme(values, width, rise, pruned=code and rise)
            if found is None and not code:
                return None, f"task {i + 1} was evaluated fewer than two times"
            each.append(max(0.0, found or 0.0) if code else found)
        return _mean(each), None

    return metric


def _switches(seen: History) -> list[list[tuple[float, list[tuple[int, float]]]]]:
    """At each switch, for each old task: its value before, and (steps since, value) after it."""
    made = []
    for k, (end, following) in enumerate(pairwise(seen.ends), start=1):
        old = []
        for i in range(k):
            points = [(n - end, v) for n, v in seen.after(i, end, following)]
            old.append((seen.at(i, end), points))
        made.append(old)
    return made


def _depths(seen: History) -> list[float]:
    return [
        max(before - min(v for _, v in points) for before, points in old) for old in _switches(seen)
    ]


def _area(transient: bool) -> Callable:
    def metric(seen: History, convention: str) -> float:
        areas = []
        for old in _switches(seen):
            total = 0.0
            for before, points in old:
                level = before
                if transient:
                    last = points[-max(5, math.ceil(0.1 * len(points))) :]
                    level = min(before, _mean([v for _, v in last]))
                lacks = [(n, max(0.0, level - v)) for n, v in [(0, before), *points]]
                total += sum((b - a) * (x + y) / 2 for (a, x), (b, y) in pairwise(lacks))
            areas.append(total)
        return _mean(areas)

    return _tasks_end(metric)


def _recovery(seen: History, convention: str) -> Measured:
    taken = []
    for old in _switches(seen):
        bars = [before * KEPT if before >= 0 else before / KEPT for before, _ in old]
        fell = None
        for moments in zip(*(points for _, points in old)):
            low = any(v < bar for (_, v), bar in zip(moments, bars))
            fell = moments[0][0] if fell is None and low else fell
            if fell is not None and not low:
                taken.append(moments[0][0])
                break
    return (_mean(taken), None) if taken else (None, "no switch fell below 90 % and recovered")


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
    "worst_case": _tasks_end(_worst_case),
    **{f"fall_{width}": _window(width, rise=False) for width in WINDOWS},
    **{f"rise_{width}": _window(width, rise=True) for width in WINDOWS},
    "gap_depth": _tasks_end(lambda seen, convention: _mean(_depths(seen))),
    "gap_depth_most": _tasks_end(lambda seen, convention: max(_depths(seen))),
    "gap_area": _area(transient=False),
    "gap_area_transient": _area(transient=True),
    "gap_recovery": _tasks_end(_recovery),
}
