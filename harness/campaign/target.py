"""How a target is set from records: pure functions of the reference candidates' runs.

Every run is a whole one (until=budget). The reference is the candidate and point with the best last
value of the goal's first metric, its other conditions holding there. It is raced over new seeds,
and the target comes from them by one of three rules:

share   the median over seeds of the metric at the first evaluation, at or after `share` of the
        budget, where the goal's other conditions hold; rounded towards the easier side
stream  for each quality (the first metric, and its worst case): the median over seeds of the worse
        of its last two values, the whole stream being the budget, less `margin` of it
stated  the goal's numbers are given, and stay

The reference must then meet the goal: for a stream in most of its seeds, else between half and
nine tenths of the budget at the median.
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
EARLIEST, LATEST = 0.5, 0.9  # shares of the budget between which the reference meets the goal
AIM = 0.7  # where a new horizon would put it


@dataclass(frozen=True)
class Procedure:
    """How one workload's target is set."""

    rule: str
    candidates: tuple[str, ...]
    trials: int = 5
    seeds: int = 3
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


def propose(seeds: Sequence[RecordedRun], goal: dict, procedure: Procedure) -> dict:
    """Return the goal with the bounds that the procedure gives it.

    Raises:
        UserError: most seeds never meet the goal's other conditions, so there is no median.
    """
    if procedure.rule == "stated":
        return goal
    made = dict(goal)
    names = qualities(goal) if procedure.rule == "stream" else qualities(goal)[:1]
    for name in names:
        direction = next(iter(goal[name]))
        if procedure.rule == "stream":
            found = [_stream_end(run, name, direction) for run in seeds]
        else:
            found = [at_share(run, goal, procedure.share) for run in seeds]
        middle = _middle(found, direction)
        if not math.isfinite(middle):
            raise UserError(f"most seeds have no {name} under the goal's other conditions")
        if procedure.rule == "stream":
            easier = 1 if direction == "at_most" else -1
            middle += easier * procedure.margin * abs(middle)
        made[name] = {direction: rounded(middle, procedure.digits, direction)}
    return made


def _middle(values: list[float], direction: str) -> float:
    """Return the median; of an even number the worse of the middle two."""
    worse = statistics.median_high if direction == "at_most" else statistics.median_low
    return worse(values)


def at_share(run: RecordedRun, goal: dict, share: float) -> float:
    """Return the metric at the first evaluation after a share of the budget that meets the rest."""
    metric, direction, _ = primary(goal)
    horizon = run.record["horizon"]
    for i, step in enumerate(run.record["evaluations"]["step"]):
        values = _values(run, i)
        value = values.get(metric)
        if step / horizon >= share - 1e-9 and value is not None and _others_hold(run, goal, values):
            return value
    return math.inf if direction == "at_most" else -math.inf


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
    """Return what is wrong with the place of the reference's crossing, and the remedy; or None."""
    many = sum(map(math.isfinite, found.shares))
    if not math.isfinite(found.share):
        met = f"only {many} of {len(found.shares)} seeds of the reference meet the goal"
        mend = {
            "share": "a smaller share",
            "stream": "a larger margin",
            "stated": f"a horizon above {horizon}",
        }
        return f"{met}: {mend[procedure.rule]}, or better candidates"
    if procedure.rule == "stream" or EARLIEST <= found.share <= LATEST:
        return None
    better = float(f"{horizon * found.share / AIM:.2g}")
    mend = (
        f"a horizon of about {better:.0f}"
        if procedure.rule == "stated"
        else "another share or horizon"
    )
    where = f"at {found.share:.0%} of the budget, not between {EARLIEST:.0%} and {LATEST:.0%}"
    return f"the reference meets the goal {where}: {mend}"
