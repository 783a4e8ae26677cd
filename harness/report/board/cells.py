"""From the runs of one submission on one workload to a cell: which of them count, and as what."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.records.run import RecordedRun, tuning_order
from harness.report.board.stats import Cell, Sample
from harness.system.hashing import canonical


@dataclass(frozen=True)
class Choice:
    """A cell, and where it comes from: the runs it rests on, the tuning runs, the point."""

    cell: Cell
    runs: list[RecordedRun]
    tuning: list[RecordedRun]
    hp: dict
    tuned: bool  # the point is the best of the tuning runs


def choose(runs: Sequence[RecordedRun]) -> Choice:
    """Decide what the runs of one submission on one workload show.

    Runs with a trial number are tuning; runs without are evidence. Per study: if it has evidence,
    its samples are the runs of one point: the best tuning run's if that was re-run, else the point
    with most runs (the first in canonical order among equals). Studies without evidence count only
    when no study has any; then each is one sample, its best trial's time.
    """
    studies: dict[int, list[RecordedRun]] = defaultdict(list)
    for run in runs:
        studies[run.record["study"]].append(run)
    tuning = [run for run in runs if run.record["trial"] is not None]
    evidence = {
        s: [r for r in group if r.record["trial"] is None] for s, group in sorted(studies.items())
    }
    if not any(evidence.values()):
        best = [min(group, key=tuning_order) for _, group in sorted(studies.items())]
        cell = Cell(tuple((_sample(run, run.record["study"]),) for run in best), "tuning")
        return Choice(cell, best, tuning, best[0].record["hp"], True)
    samples, chosen, points = [], [], []
    for study, group in evidence.items():
        if not group:
            continue
        trials = [r for r in tuning if r.record["study"] == study]
        point, tuned = _point(group, trials)
        picked = {r.record["seed"]: r for r in group if canonical(r.record["hp"]) == point}
        samples.append(tuple(_sample(run, seed) for seed, run in sorted(picked.items())))
        chosen += [run for _, run in sorted(picked.items())]
        points.append(tuned)
    return Choice(Cell(tuple(samples)), chosen, tuning, chosen[0].record["hp"], all(points))


def unfit(others: Sequence[Cell]) -> Choice:
    """A submission that cannot be raced there: a miss, of as many seeds as its other cells have."""
    units = sorted({unit for cell in others for unit in cell.units()})
    cell = Cell((tuple(Sample(unit, math.inf) for unit in units),), "unfit")
    return Choice(cell, [], [], {}, False)


def _point(group: list[RecordedRun], trials: list[RecordedRun]) -> tuple[str, bool]:
    counts = Counter(canonical(run.record["hp"]) for run in group)
    if trials:
        best = canonical(min(trials, key=tuning_order).record["hp"])
        if best in counts:
            return best, True
    return min(counts, key=lambda point: (-counts[point], point)), False


def _sample(run: RecordedRun, unit: int) -> Sample:
    after = (run.record.get("crossing") or {}).get("after", 0.0)
    return Sample(unit, run.time, after)


def by_workload(runs: Sequence[RecordedRun]) -> Mapping[str, list[RecordedRun]]:
    """Runs by workload key."""
    found: dict[str, list[RecordedRun]] = defaultdict(list)
    for run in runs:
        found[run.key].append(run)
    return dict(sorted(found.items()))
