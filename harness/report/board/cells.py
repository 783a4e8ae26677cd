"""From the runs of one submission on one workload to a cell: which of them count, and as what."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.records.run import RecordedRun, best_tuning, tuning_order
from harness.report.board.stats import Cell, Sample


@dataclass(frozen=True)
class Choice:
    """A cell, and the runs of its submission on its workload by their use.

    Attributes:
        runs: the runs that the cell rests on, all of the point `hp` at the share `budget`.
        tuning: the tuning runs.
        others: runs of other points, and second runs of a seed; they do not count.
        tuned: the point is the best of the tuning runs.
        selected: several points had as many runs as this one, which was the fastest.
    """

    cell: Cell
    runs: list[RecordedRun]
    tuning: list[RecordedRun]
    hp: dict
    tuned: bool
    others: list[RecordedRun] = field(default_factory=list)
    selected: bool = False
    budget: float = 1

    @property
    def every(self) -> list[tuple[RecordedRun, str]]:
        """Each run once, with its use: "counts", "tuning" or "other point"."""
        used = {id(run) for run in self.runs}
        rest = [(run, "tuning") for run in self.tuning if id(run) not in used]
        return [
            *((run, "counts") for run in self.runs),
            *rest,
            *((run, "other point") for run in self.others),
        ]


def choose(runs: Sequence[RecordedRun], reference: float | None = None) -> Choice:
    """Decide which runs of one submission on one workload count.

    Runs with a trial number are tuning; runs without one are evidence. If a study has evidence, its
    samples are the runs of one point: the best tuning run's if that was re-run, else the point with
    the most runs, of equals the fastest. Studies without evidence count only when no study has any;
    then each is one sample, its best trial's time. A point is hyperparameters and a share of the
    budget.

    Args:
        reference: the reference's time on the workload.
    """
    studies: dict[int, list[RecordedRun]] = defaultdict(list)
    for run in runs:
        studies[run.record["study"]].append(run)
    tuning = [run for run in runs if run.record["trial"] is not None]
    evidence = {
        s: [r for r in group if r.record["trial"] is None] for s, group in sorted(studies.items())
    }
    if not any(evidence.values()):
        best = [run for _, group in sorted(studies.items()) if (run := best_tuning(group))]
        samples = tuple((_sample(run, run.record["study"]),) for run in best)
        cell = Cell(samples, "tuning", reference)
        return Choice(cell, best, tuning, best[0].record["hp"], True, budget=best[0].share)
    samples, chosen, points = [], [], []
    for study, group in evidence.items():
        if not group:
            continue
        trials = [r for r in tuning if r.record["study"] == study]
        point, how = _point(group, trials)
        picked = {r.record["seed"]: r for r in group if r.point == point}
        samples.append(tuple(_sample(run, seed) for seed, run in sorted(picked.items())))
        chosen += [run for _, run in sorted(picked.items())]
        points.append(how)
    used = {id(run) for run in [*chosen, *tuning]}
    return Choice(
        Cell(tuple(samples), reference=reference),
        chosen,
        tuning,
        chosen[0].record["hp"],
        all(how == "tuned" for how in points),
        [run for run in runs if id(run) not in used],
        "fastest" in points,
        chosen[0].share,
    )


def unfit(others: Sequence[Cell], reference: float | None = None) -> Choice:
    """Return the cell of a submission that cannot be raced: misses, as many as its seeds elsewhere.

    Args:
        others: the submission's cells on other workloads.
        reference: the reference's time on the workload.
    """
    units = sorted({unit for cell in others for unit in cell.units()})
    cell = Cell((tuple(Sample(unit, math.inf) for unit in units),), "unfit", reference)
    return Choice(cell, [], [], {}, False)


def with_misses(choice: Choice, others: Mapping[str, Choice]) -> Choice:
    """Return a cell whose tuning trials and one fresh seed all missed with as many misses as seeds.

    No further seeds are raced there, for they would say no more. Without the fresh seed the tuning
    has not ended, and nothing is known yet.

    Args:
        others: the submission's cells by workload.
    """
    runs = [*choice.tuning, *choice.runs]
    fresh = any(run.record["trial"] is None for run in choice.runs)
    met = any(math.isfinite(run.time) for run in runs)
    if choice.cell.n > 1 or not choice.tuning or not fresh or met:
        return choice
    units = sorted({unit for other in others.values() for unit in other.cell.units()})
    studies = (tuple(Sample(unit, math.inf) for unit in units),)
    return replace(choice, cell=replace(choice.cell, studies=studies))


def _point(group: list[RecordedRun], trials: list[RecordedRun]) -> tuple[str, str]:
    """Return the point that counts, as canonical text, and how it was chosen.

    It is "tuned" where it is the best tuning run's, "most raced" where it has the most seeds, and
    "fastest" where it is the fastest of several points with the most seeds.
    """
    seeds = Counter(point for point, _ in {(run.point, run.record["seed"]) for run in group})
    best = best_tuning(trials)
    if best and best.point in seeds:
        return best.point, "tuned"
    equals = [point for point, count in seeds.items() if count == max(seeds.values())]
    if len(equals) == 1:
        return equals[0], "most raced"
    return min(equals, key=lambda point: (*_speed(group, point), point)), "fastest"


def _speed(group: list[RecordedRun], point: str) -> tuple[float, float]:
    """Return a point's median time and median best value, each lower for a better point."""
    orders = [tuning_order(run)[:2] for run in group if run.point == point]
    times, values = (sorted(column) for column in zip(*orders, strict=True))
    return times[len(times) // 2], values[len(values) // 2]


def _sample(run: RecordedRun, unit: int) -> Sample:
    return Sample(unit, run.interpolated)


def by_workload(runs: Sequence[RecordedRun]) -> Mapping[str, list[RecordedRun]]:
    """Return the runs by workload key."""
    groups: dict[str, list[RecordedRun]] = defaultdict(list)
    for run in runs:
        groups[run.key].append(run)
    return dict(sorted(groups.items()))
