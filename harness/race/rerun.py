"""Race a recorded run again, from its record alone, in a folder of its own."""

import shutil
from pathlib import Path

from harness.catalog import discover, identity
from harness.catalog.definition import tree_of
from harness.errors import UserError
from harness.race import configuration, plan
from harness.race.observer import Quiet
from harness.race.referee import race
from harness.race.trial import Trial
from harness.records.collect import read_folder
from harness.records.run import RecordedRun

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
    factor = (record.get("budget") or {}).get("factor", 1)
    settings = configuration.settings(
        tree_of(record.get("workload_file") or record["workload"]),
        {"name": record["submission"], "path": _source(record, folder, place, file)} | record["hp"],
        scale=record["scale"],
        variant=record["variant"],
        seed=record["seed"],
        tuned=False,
        isolation=record.get("isolation"),
        until="budget" if _went_on(record) else "goal",
        results=str(place),
        **({} if factor == 1 else {"budget": factor}),
    )
    trial = plan.make(settings)
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


def _source(record: dict, folder: Path | None, place: Path, file: str) -> str | None:
    """Return the path of the file to race, or None for an installed submission."""
    if file:
        return file
    name = record["submission"]
    shipped = discover.submissions().get(name)
    if shipped and identity.source_hash(shipped) == record["submission_hash"]:
        return None
    kept = sorted((folder / "source").rglob(f"{name}.py")) if folder else []
    if not kept:
        return None
    copy = place / "source"
    shutil.copytree(kept[0].parent, copy)
    return str(copy / kept[0].name)


def _went_on(record: dict) -> bool:
    """Return True if the run trained on after it had met its goal."""
    steps = (record.get("evaluations") or {}).get("step") or []
    crossed = (record.get("crossing") or {}).get("step")
    return crossed in steps and len(steps) > steps.index(crossed) + 2
