"""Race a recorded run again, from its record alone, in a folder of its own."""

import math
import os
import secrets
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.catalog import data, discover, identity, streams
from harness.catalog.definition import define, draws_answers, tree_of
from harness.catalog.key import own_key
from harness.errors import UserError
from harness.race import plan
from harness.race.observer import Quiet
from harness.race.recorded import settings_of, source_of
from harness.race.referee import Outcome, race
from harness.race.trial import Trial
from harness.records import run_folder
from harness.records.collect import read_folder
from harness.records.log import rows as read_rows
from harness.records.run import RecordedRun
from harness.records.schema import DAMAGED
from harness.system.files import remove_tree
from harness.train import final_weights, shared_weights

# Metrics that the weights alone do not give.
DECLARED = ("trainable", "training_memory")
# Relative tolerance of a metric of the same weights on another machine.
CLOSE = 1e-4
# Steps to the goal on another instance, over the most on the public ones; an evaluation more.
HARDER = 1.5
# The tensor of a hidden truth in validation data.
TRUTH = "truth"
ENDED = ("reached", "out_of_budget", "hopeless", "diverged", "invalid")


class Interrupting(Quiet):
    """Stops a race once, at an evaluation that nobody can foresee.

    Attributes:
        step: the step that it stops at, or None if the race has too few evaluations.
        asked: whether it has done so.
    """

    def __init__(self, label: str, steps: list[int]):
        super().__init__(label)
        self.step = secrets.choice(steps) if steps else None
        self.asked = False

    def row(self, row: dict) -> None:
        if not self.asked and self.step is not None and row["step"] >= self.step:
            self.asked = True
            os.kill(os.getpid(), signal.SIGTERM)

    def note(self, text: str) -> None:
        """Print nothing: whoever verifies sees the result alone."""


@contextmanager
def made_up(where: str):
    """Raise UserError where a record holds what no race has written."""
    try:
        yield
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"{where}: damaged: {error!r}") from None


def admitted(record: dict, folder: Path | None, file: str, workload: str) -> dict:
    """Return a record as it may be raced here: none of its code runs unconfined.

    Args:
        folder: the run's folder, which may keep source of its own; None for a compact line.
        file, workload: the files of submission and workload that the user has named, or "".

    Raises:
        UserError: code would run that is not installed here, and that the user has not named.
    """
    if stated := record.get("workload_file"):
        if not workload:
            raise UserError(
                f"its workload is a file, {stated}, whose code no isolation would confine",
                do="harness verify RECORD --workload FILE, once you have read the file",
            )
        record = record | {"workload_file": str(Path(workload).resolve())}
    name, isolation = record["submission"], record.get("isolation")
    shipped = discover.submissions().get(name)
    known = shipped and identity.source_hash(shipped) == record["submission_hash"]
    kept = folder is not None and any((folder / "source").rglob(f"{name}.py"))
    if kept and not (known or file or isolation == "strict"):
        raise UserError(
            f"its source is not installed here, and isolation={isolation} would not confine it",
            "records of isolation=strict",
            "harness verify RECORD --submission FILE, once you have read the file",
        )
    return record


def trial_of(
    run: RecordedRun, folder: Path | None, place: Path, file: str = "", keyed: bool = False
) -> Trial:
    """Return the trial that a record describes, to be raced in `place`.

    Args:
        folder: the run's folder, whose kept source is raced; None for a compact line.
        file: the path of the submission's file, where it is not an installed one.
        keyed: whether it is another instance, drawn from a key of its own.

    Raises:
        UserError: the code that is here would not make the same run.
    """
    record = run.record
    until = "budget" if _went_on(record) else "goal"
    with made_up(run.where):
        source = source_of(record, folder, place, file)
        trial = plan.make(settings_of(record, source, place, until))
    for name, mine in (
        ("training_hash", trial.definition.training_hash),
        ("submission_hash", trial.source),
        ("horizon", trial.horizon),
        ("run_id", trial.run_id),
    ):
        if record.get(name) != mine and not (keyed and name == "run_id"):
            raise UserError(
                f"{run.where}: the trial that can be raced here has another {name} "
                f"({mine}, not {record.get(name)})",
                "the workload, submission, budget and engine of the record",
                "harness verify RECORD --submission FILE, or the version that raced it",
            )
    return trial


def again(
    run: RecordedRun, folder: Path | None, place: Path, file: str = ""
) -> tuple[RecordedRun, str]:
    """Race a recorded run again, with an interruption; return its record, and what was done.

    The race is stopped at one of its evaluations and continued in a new process, which has nothing
    but the checkpoint: what a submission keeps elsewhere is lost.

    Raises:
        UserError: it cannot be raced here, or the race ends without a result.
    """
    trial = trial_of(run, folder, place, file)
    steps = (run.record.get("evaluations") or {}).get("step") or []
    observer = Interrupting(trial.label, [step for step in steps[:-1] if step])
    outcome, done = race(trial, observer), "not interrupted"
    if outcome.outcome == "interrupted" and observer.asked:
        done = f"interrupted at step {outcome.record['step']}"
        outcome = race(trial, Quiet(trial.label))
    return _ended(run, outcome, "the second race"), done


def is_generated(trial: Trial) -> bool:
    """Return True if a trial's problem is drawn by code, so that its source can draw it too."""
    if draws_answers(trial.definition):
        return True
    if "seed" in discover.functions(trial.definition.plugin)["data"]:
        return True
    validation = data.prepare(trial.definition, "val", trial.seed)
    assert validation is not None
    return TRUTH in data.open_data(validation)


def of_own_key(
    run: RecordedRun, others: Sequence[RecordedRun], folder: Path | None, place: Path, file: str
) -> str:
    """Race another instance of a generated problem, from a key that no submission can know.

    Returns:
        What was seen; "" if the problem is not a generated one, or was not solved in the record.

    Raises:
        UserError: the instance is not solved, or in many more steps than the public ones.
    """
    if run.record["outcome"] != "reached" or not is_generated(trial_of(run, folder, place, file)):
        return ""
    with own_key():
        trial = trial_of(run, folder, place / "keyed", file, keyed=True)
        outcome = race(trial, Quiet(trial.label))
        for split in ("train", "val"):
            if prepared := data.prepare(trial.definition, split, trial.seed):
                remove_tree(prepared)
    second = _ended(run, outcome, "the race of an instance of a key of its own")
    known = [_crossing(each) for each in (run, *others) if each.record["outcome"] == "reached"]
    steps = run.record["evaluations"]["step"]
    most = HARDER * max(known) + steps[1] - steps[0]
    if second.record["outcome"] != "reached" or _crossing(second) > most:
        raise UserError(
            f"{run.where}: an instance of a key of its own ended as {second.record['outcome']} at "
            f"step {second.record['step']}; the public ones were solved by step {max(known)}"
        )
    return f"an instance of a key of its own solved at step {_crossing(second)}"


def _crossing(run: RecordedRun) -> int:
    """Return the step at which a run met its goal."""
    return (run.record.get("crossing") or {}).get("step") or run.record["step"]


def _ended(run: RecordedRun, outcome: Outcome, what: str) -> RecordedRun:
    """Return the record of a race; raise UserError if it has no result."""
    if outcome.outcome not in ENDED:
        reason = outcome.record.get("reason") or "no reason is known"
        raise UserError(f"{run.where}: {what} ended as {outcome.outcome}: {reason}")
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
    with made_up(str(folder)):
        stated = run_folder.evaluations(read_rows(folder / "log.jsonl"))[-1]
        compared = list(_compared(record, stated, weights))
    for name, old, new in compared:
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
