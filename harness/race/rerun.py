"""Race a recorded run again, from its record alone, in a folder of its own."""

import math
from collections.abc import Iterator
from pathlib import Path

from harness.catalog import data, streams
from harness.catalog.definition import define, tree_of
from harness.errors import UserError
from harness.race import plan
from harness.race.observer import Quiet
from harness.race.recorded import settings_of, source_of
from harness.race.referee import race
from harness.race.trial import Trial
from harness.records import run_folder
from harness.records.collect import read_folder
from harness.records.log import rows as read_rows
from harness.records.run import RecordedRun
from harness.train import final_weights, shared_weights

# Metrics that the weights alone do not give.
DECLARED = ("trainable", "training_memory")
# Relative tolerance of a metric of the same weights on another machine.
CLOSE = 1e-4
ENDED = ("reached", "out_of_budget", "hopeless", "diverged", "invalid")


def trial_of(run: RecordedRun, folder: Path | None, place: Path, file: str = "") -> Trial:
    """Return the trial that a record describes, to be raced in `place`.

    Args:
        folder: the run's folder, whose kept source is raced; None for a compact line.
        file: the path of the submission's file, where it is not an installed one.

    Raises:
        UserError: the code that is here would not make the same run.
    """
    record = run.record
    until = "budget" if _went_on(record) else "goal"
    source = source_of(record, folder, place, file)
    trial = plan.make(settings_of(record, source, place, until))
    for name, mine in (
        ("training_hash", trial.definition.training_hash),
        ("submission_hash", trial.source),
        ("horizon", trial.horizon),
        ("run_id", trial.run_id),
    ):
        if record.get(name) != mine:
            raise UserError(
                f"{run.where}: the trial that can be raced here has another {name} "
                f"({mine}, not {record.get(name)})",
                "the workload, submission, budget and engine of the record",
                "harness verify RECORD --submission FILE, or the version that raced it",
            )
    return trial


def again(run: RecordedRun, folder: Path | None, place: Path, file: str = "") -> RecordedRun:
    """Race a recorded run again; return the second race's record.

    Raises:
        UserError: it cannot be raced here, or the race ends without a result.
    """
    trial = trial_of(run, folder, place, file)
    outcome = race(trial, Quiet(trial.label))
    if outcome.outcome not in ENDED:
        reason = outcome.record.get("reason") or "no reason is known"
        raise UserError(f"{run.where}: the second race ended as {outcome.outcome}: {reason}")
    return read_folder(outcome.folder)


def evaluate_weights(record: dict, folder: Path) -> str:
    """Evaluate the weights that a run's folder keeps; return what was seen.

    Args:
        record: the whole run.json.

    Raises:
        UserError: the weights are not those of the record, or give other metrics.
    """
    weights = final_weights.load(folder)
    if weights is None:
        return "no final weights are kept"
    if record.get("own_predictor"):
        return "the final weights are kept, but the submission's own predictor answered"
    if shared_weights.digest(weights) != record.get("weights"):
        raise UserError(f"{folder}: the weights that are kept do not have the record's digest")
    stated = run_folder.evaluations(read_rows(folder / "log.jsonl"))[-1]
    for name, old, new in _compared(record, stated, weights):
        if not math.isclose(old, new, rel_tol=CLOSE, abs_tol=CLOSE):
            raise UserError(f"{folder}: the weights that are kept give {name} {new}, not {old}")
    return "the final weights give the same metrics"


def _compared(record: dict, row: dict, weights: dict) -> Iterator[tuple[str, float, float]]:
    """Yield (metric, value in the log's last evaluation, value of the weights now)."""
    # torch: after the runner of another trial was started, or without one
    from harness.race.evaluator import Evaluator

    place = record.get("workload_file") or record["workload"]
    definition = define(place, tree_of(place), record["scale"], record["variant"])
    validation = data.prepare(definition, "val", record["seed"])
    start = data.prepare(definition, data.PRETRAINED)
    assert validation is not None
    evaluator = Evaluator(definition, validation, "cpu", record["seed"], start)
    if problem := shared_weights.difference(shared_weights.layout(weights), evaluator.layout):
        raise UserError(f"{record['run_id']}: {problem}")
    if "stream" in definition.block:
        count = streams.watched(definition.block, row["step"])
        new = evaluator.groups(weights, None, count)
        for number, (old, mine) in enumerate(zip(row["tasks"], new, strict=True), 1):
            yield f"the quality on task {number}", old[0], mine[0]
        return
    new = evaluator(weights, None)
    # The runner counts the others.
    yield from ((k, v, new[k]) for k, v in row["metrics"].items() if k in new and k not in DECLARED)


def _went_on(record: dict) -> bool:
    """Return True if the run trained on after it had met its goal."""
    steps = (record.get("evaluations") or {}).get("step") or []
    crossed = (record.get("crossing") or {}).get("step")
    return crossed in steps and len(steps) > steps.index(crossed) + 2
