"""How a target is set from records: pure functions of the reference candidates' runs.

Every run uses up its budget (until=budget). The reference is the candidate and point with the best
last value of the goal's first metric, its other conditions holding there. Two groups of new seeds
race it: the first sets the bounds, the second must reach them at the whole budget. Three rules:

share   the first group races over `share` of the budget; the bound is the mean of its last values,
        moved one standard error to the easier side, and rounded to that side
stream  of each quality (the first metric, and its worst case): the worst end of the first group,
        an end being the worse of the last two values, moved to the easier side by `margin` of it
stated  the goal's numbers are given, and stay

The signal of a workload is how far the metric moves over the last fifth of the budget, over the
scatter of seeds. Its inverse is the scatter of the times to a goal near the end, in fifths of the
budget: about 1 where seeds of one method differ as much as methods that differ by a fifth in speed.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.catalog.definition import Definition
from harness.catalog.goal import primary
from harness.errors import UserError, nearest
from harness.records.judging import conditions_hold
from harness.records.rejudge import rejudge
from harness.records.run import RecordedRun

RULES = ("share", "stream", "stated")
# shares of the budget between which the reference meets a stated goal, at the median
EARLIEST, LATEST = 0.5, 0.95
AIM = 0.75  # where a new horizon would put it
FIFTH = 0.8  # the signal is of the budget from this share of it on


@dataclass(frozen=True)
class Procedure:
    """How one workload's target is set.

    Attributes:
        trials: points of its search space that each candidate races.
        seeds: new seeds of each of the two groups.
        share: of the budget that the first group races over, where the workload is no stream.
    """

    rule: str
    candidates: tuple[str, ...]
    trials: int = 5
    seeds: int = 5
    share: float = 0.75
    margin: float = 0.03
    digits: int = 3


def read_procedures(path: Path) -> dict[str, Procedure]:
    """Return the procedures by workload (NAME or NAME.VARIANT), each over the file's `defaults`.

    Raises:
        UserError: a key or rule in the file is wrong.
    """
    given = yaml.safe_load(path.read_text())
    made = {}
    for name, own in given["workloads"].items():
        settings = given["defaults"] | own
        for key in settings:
            if key not in Procedure.__dataclass_fields__:
                known = Procedure.__dataclass_fields__
                raise UserError(f"{path}: {name} has a key {key!r}", nearest(key, known))
        if settings["rule"] not in RULES:
            raise UserError(f"{path}: rule of {name} is {settings['rule']!r}", ", ".join(RULES))
        made[name] = Procedure(**settings | {"candidates": tuple(settings["candidates"])})
    return made


def whole(run: RecordedRun) -> bool:
    """Return True if a run trained to the end of its budget."""
    return run.record["step"] >= run.record["horizon"]


def last(run: RecordedRun, goal: dict) -> float:
    """Return the last value of the goal's first metric, to be minimised; inf if it does not count.

    It does not where the run broke off, or another condition of the goal does not hold.
    """
    values = _values(run, -1)
    metric, direction, _ = primary(goal)
    value = values.get(metric)
    if not whole(run) or value is None or not _others_hold(run, goal, values):
        return math.inf
    return value if direction == "at_most" else -value


def _values(run: RecordedRun, i: int) -> dict[str, float | None]:
    return {name: column[i] for name, column in run.record["evaluations"]["metrics"].items()}


def _others_hold(run: RecordedRun, goal: dict, values: dict) -> bool:
    """Return True if the conditions that are not of a quality hold (a worst case is a quality)."""
    others = {name: bounds for name, bounds in goal.items() if name not in qualities(goal)}
    return conditions_hold(others, values)


def qualities(goal: dict) -> tuple[str, ...]:
    """Return the metrics whose bounds are set: the goal's first, and its worst case in a stream."""
    metric, _, _ = primary(goal)
    return tuple(name for name in goal if name in (metric, f"worst_case_{metric}"))


def propose(first: Sequence[RecordedRun], goal: dict, procedure: Procedure) -> dict:
    """Return the goal with the bounds that the procedure gives it.

    Args:
        first: the runs of the first group of seeds, at least two.

    Raises:
        UserError: a seed does not meet the goal's other conditions at its end.
    """
    if procedure.rule == "stated":
        return goal
    made = dict(goal)
    names = qualities(goal) if procedure.rule == "stream" else qualities(goal)[:1]
    for name in names:
        direction = next(iter(goal[name]))
        easier = 1 if direction == "at_most" else -1
        if procedure.rule == "stream":
            ends = [_stream_end(run, name, direction) for run in first]
            bound = max(ends) if direction == "at_most" else min(ends)
            bound += easier * procedure.margin * abs(bound)
        else:
            ends = [easier * last(run, goal) for run in first]
            error = statistics.stdev(ends) / math.sqrt(len(ends)) if _finite(ends) else 0
            bound = statistics.fmean(ends) + easier * error
        if not _finite(ends):
            bad = sum(not math.isfinite(end) for end in ends)
            raise UserError(
                f"{bad} of {len(ends)} seeds have no last {name} under the goal's other conditions"
            )
        made[name] = {direction: rounded(bound, procedure.digits, direction)}
    return made


def _finite(values: Sequence[float]) -> bool:
    return all(map(math.isfinite, values))


def signal(runs: Sequence[RecordedRun], goal: dict) -> float:
    """Return how far the metric moves over the last fifth of the budget, over the scatter of seeds.

    The metric is taken by its logarithm where it must fall below a positive bound. The scatter is
    the standard deviation of the runs' last values. nan if a value is missing, or there is no
    scatter.

    Args:
        runs: of several seeds at the whole budget.
    """
    metric, direction, bound = primary(goal)
    log = direction == "at_most" and bound > 0

    def value(run: RecordedRun, progress: float) -> float:
        at_least = progress * run.record["horizon"] - 1e-9
        steps = enumerate(run.record["evaluations"]["step"])
        at = next((i for i, step in steps if step >= at_least), None)
        found = None if at is None else _values(run, at).get(metric)
        if found is None or not math.isfinite(found) or (log and found <= 0):
            return math.nan
        return math.log(found) if log else found

    ends = [value(run, 1.0) for run in runs]
    before = [value(run, FIFTH) for run in runs]
    if not _finite([*ends, *before]):
        return math.nan
    change, scatter = statistics.fmean(ends) - statistics.fmean(before), statistics.stdev(ends)
    return abs(change) / scatter if scatter > 0 else math.nan


def _stream_end(run: RecordedRun, name: str, direction: str) -> float:
    columns = run.record["evaluations"]
    two = columns["metrics"][name][-1], columns["before"][name]
    bad = math.inf if direction == "at_most" else -math.inf
    if not whole(run) or None in two:
        return bad
    return (max if direction == "at_most" else min)(two)


def rounded(value: float, digits: int, direction: str) -> float:
    """`value` rounded to significant digits, towards the easier side."""
    if value == 0:
        return 0.0
    scale = 10 ** (digits - 1 - math.floor(math.log10(abs(value))))
    to = math.ceil if direction == "at_most" else math.floor
    near = round(value * scale, 6)  # 0.29 * 100 is 28.999999999999996
    return to(near) / scale


@dataclass(frozen=True)
class Reached:
    """Where the reference's seeds meet a goal, in shares of the budget and seconds; inf: never."""

    shares: list[float]
    times: list[float]
    middle: int  # index of the seed with the median time

    @property
    def share(self) -> float:
        return statistics.median_high(self.shares)


def reached(seeds: Sequence[RecordedRun], definition: Definition) -> Reached:
    """Return the seeds judged by a workload's goal."""
    judged = [rejudge(run, definition) for run in seeds]
    assert all(run.record["workload_hash"] == definition.hash for run in judged)
    times = [run.time for run in judged]
    shares = [
        run.record["crossing"]["step"] / run.record["horizon"]
        if math.isfinite(run.time)
        else math.inf
        for run in judged
    ]
    order = sorted(range(len(times)), key=lambda i: (times[i], i))
    return Reached(shares, times, order[len(order) // 2])


def complaint(found: Reached, procedure: Procedure, horizon: int) -> str | None:
    """Return what is wrong with where the second group meets the goal, and the remedy; or None."""
    many = sum(map(math.isfinite, found.shares))
    if many < len(found.shares):
        mend = {
            "share": "a smaller share",
            "stream": "a larger margin",
            "stated": f"a horizon above {horizon}",
        }
        met = f"{many} of {len(found.shares)} seeds of the reference meet the goal, not all"
        return f"{met}: {mend[procedure.rule]}, or better candidates"
    if procedure.rule != "stated" or EARLIEST <= found.share <= LATEST:
        return None
    better = float(f"{horizon * found.share / AIM:.2g}")
    where = f"at {found.share:.0%} of the budget, not between {EARLIEST:.0%} and {LATEST:.0%}"
    return f"the reference meets the goal {where}: a horizon of about {better:.0f}"
