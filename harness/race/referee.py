"""The parent process of a trial: it owns the clock, the evaluation, the goal and the record.

`race` runs one trial to its outcome. An attempt at it has three parts: `resume` continues the log
where the checkpoint was made, `loop` lets the runner train from one evaluation to the next and
judges each, `finish` writes the result. An observer is called with what happens.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from harness.catalog import data
from harness.clock import reading
from harness.errors import UserError
from harness.race.attempt import Attempt, evaluation_row
from harness.race.observer import Observer
from harness.race.runner_base import TrialEnded
from harness.race.runner_inline import InlineRunner
from harness.race.runner_process import ProcessRunner
from harness.race.scoring import Scorer
from harness.race.trial import Trial
from harness.records import judging, run_folder
from harness.records.judging import Ending
from harness.records.result import summarise
from harness.system.files import DiskFull, locked
from harness.system.machine import environment, load_average
from harness.system.processes import keep_freed_memory
from harness.system.signals import Signals
from harness.train import checkpoint, final_weights, shared_weights
from harness.train.failure import not_ours

# Outcomes of a trial whose last weights were evaluated.
JUDGED = ("reached", "out_of_budget", "hopeless")
NOT_AGAIN = "a finished trial is not run again; results=OTHER_FOLDER or another seed= is"
PAUSED = "interrupted", "asked to stop; the same command continues it"


@dataclass
class Outcome:
    """How a trial ended: its record (the content of run.json) and the folder that keeps it."""

    outcome: str
    folder: Path
    record: dict

    @property
    def exit_code(self) -> int:
        return run_folder.exit_code(self.outcome)


def race(trial: Trial, observer: Observer) -> Outcome:
    """Run the trial to its outcome, or continue it, or return the record of an earlier run.

    Raises:
        UserError: the results folder cannot be written, or the trial cannot be run here.
    """
    try:
        trial.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write into {trial.results}: {error.strerror}", do="results=FOLDER"
        ) from None
    with locked(trial.folder) as mine:
        if not mine:
            observer.note(f"{trial.label} {trial.run_id} is run by another process: left to it")
            return Outcome("busy", trial.folder, {"outcome": "busy"})
        # before anything in the folder is touched
        run_folder.refuse_newer(trial.folder)
        record = run_folder.finished(trial.folder)
        problem = run_folder.log_problem(trial.folder) if record else None
        if record and judging.is_current(record, trial.definition.hash, trial.table, trial.until):
            if problem:
                observer.note(f"{problem}; no report counts this record")
            if trial.diagnose and "diagnosis" not in record:
                observer.note(f"{trial.label} was run before, without diagnose=true: {NOT_AGAIN}")
            return Outcome(record["outcome"], trial.folder, record | {"earlier": True})
        if problem:
            raise UserError(problem)
        (trial.folder / "run.json").unlink(missing_ok=True)  # of an attempt that failed
        with Signals() as signals:
            return _run(Attempt(trial, observer, signals))


def _run(attempt: Attempt) -> Outcome:
    """Make one attempt; whatever ends it becomes an outcome."""
    signals = attempt.signals
    try:
        attempt.open()
        outcome, reason = _attempt(attempt)
        if attempt.runner:
            attempt.runner.settle()
    except TrialEnded as ended:
        outcome, reason = ended.ending(attempt.trial.card)
    except DiskFull as full:
        outcome, reason = "disk_full", str(full)
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, KeyboardInterrupt) or signals.insisted:
            outcome, reason = "interrupted", "stopped at once by a second Ctrl-C"
        elif failure := not_ours(error):
            outcome, reason = failure
        else:
            raise
    finally:
        signals.over = True
        if attempt.runner:
            attempt.runner.close()
    return finish(attempt, outcome, reason)


def _attempt(attempt: Attempt) -> Ending:
    """Start the runner, continue or begin the log, and train to the trial's end."""
    if ending := attempt.ended_before():
        return ending
    trial, started = attempt.trial, time.monotonic()
    keep_freed_memory()
    make = InlineRunner if trial.isolation == "inline" else ProcessRunner
    # The runner first: it imports torch while this process prepares the data.
    attempt.runner = make(
        trial, attempt.observer.tick, attempt.signals, attempt.checkpoints, attempt.cpu_per_step
    )
    train = data.prepare(trial.definition, "train", trial.seed)
    validation = data.prepare(trial.definition, "val", trial.seed)
    start = data.prepare(trial.definition, data.PRETRAINED)
    assert train is not None
    assert validation is not None
    attempt.runner.start(train, start)
    import torch

    from harness.race.evaluator import Evaluator

    device = trial.engine["device"]
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"torch sees no GPU for engine.device={device}", do="engine=cpu, or harness doctor"
        )
    torch.set_num_threads(trial.engine["threads"])
    evaluator = Evaluator(trial.definition, validation, device, trial.seed, start)
    ready = attempt.runner.ready(evaluator.layout)
    attempt.wall["setup"] = time.monotonic() - started
    resume(attempt, ready)
    attempt.runner.keep.update(attempt.observer.started(trial))
    attempt.scorer = Scorer(trial, evaluator, attempt.runner)
    if trial.diagnose:
        from harness.race.diagnosis import Diagnosis

        attempt.diagnosis = Diagnosis(trial.definition, train, device, trial.seed)
    return loop(attempt, ready)


def resume(attempt: Attempt, ready: dict) -> None:
    """Continue the log where the checkpoint was made, or begin it.

    Raises:
        TrialEnded: the checkpoint is not the one that the log tells of.
    """
    trial, runner, step = attempt.trial, attempt.running, ready["step"]
    base = attempt.row_at(step)
    again = f"; remove {trial.folder} to start again"
    if step and not base:
        raise TrialEnded("failed", f"the checkpoint of step {step} is not in the log{again}")
    if base and not (
        base["weights"] == shared_weights.digest(runner.weights())
        and base["counts"] == ready["counts"]
    ):
        reason = f"the weights that came back at step {step} are not those handed over there"
        raise TrialEnded("failed", reason + again)
    attempt.setup_seconds += ready["setup"]
    if not (earlier := attempt.continued):
        layers = {"environment": environment(), "isolation_layers": runner.layers}
        charged = {"setup_seconds": attempt.setup_seconds}
        attempt.append({"event": "started"} | trial.describe() | layers | charged)
    # An attempt that ended before its first row is not in the log, and is charged all the same.
    if earlier or runner.furthest_step() > step:
        lost = attempt.continue_at(step)
        for text in ready["warnings"]:
            attempt.observer.note(text)
        charged = f"; {lost} steps were lost and are charged" if lost else ""
        attempt.observer.note(f"continued at step {step} of {trial.horizon}{charged}")
    attempt.begin_at(base, ready)


def loop(attempt: Attempt, ready: dict) -> Ending:
    """Train from one evaluation to the next until the trial ends or is asked to stop."""
    ending = attempt.ending() if attempt.base else evaluate(attempt, ready)
    for step in [s for s in attempt.trial.grid if s > ready["step"]]:
        if ending or attempt.signals.asked:
            break
        begun = time.monotonic()
        reply = attempt.running.go(step)
        attempt.wall["training"] += time.monotonic() - begun
        if reply["paused"] and reply["step"] < step:
            _pause(attempt, reply)
            return PAUSED
        ending = evaluate(attempt, reply)
    return ending or PAUSED


def _take(attempt: Attempt, reply: dict, score: bool) -> tuple[dict, dict, dict]:
    """Return the clock's part of a row, what the weights are worth, and the weights.

    Args:
        score: evaluate the weights; without it their part of the row is empty.

    Raises:
        TrialEnded: the weights or the answers do not fit the workload.
    """
    try:
        # Before the ledger, which charges the predictions to the row that they answer.
        if score:
            attempt.scoring.ask(reply["step"])
        ledger = attempt.ledger(reply)
        with attempt.running.frozen():
            weights = attempt.running.weights()
            scored = attempt.scoring.score(reply, weights) if score else {}
    except ValueError as error:
        raise TrialEnded("invalid", str(error)) from None
    return ledger, scored, weights


def _pause(attempt: Attempt, reply: dict) -> None:
    """Log and save a trial between two evaluations."""
    # The rows between two evaluations are part of a stream's curve.
    ledger, scored, weights = _take(attempt, reply, score=attempt.streaming)
    digest = shared_weights.digest(weights)
    attempt.append(ledger | {"event": "paused"} | scored | {"weights": digest})
    attempt.save()


def evaluate(attempt: Attempt, reply: dict) -> Ending | None:
    """Evaluate what was handed over, log it and save; return the ending it brings, if any.

    Raises:
        TrialEnded: the weights or the answers do not fit, or a pass has no price.
    """
    begun = time.monotonic()
    ledger, scored, weights = _take(attempt, reply, score=True)
    attempt.wall["evaluation"] += time.monotonic() - begun
    if attempt.diagnosis:
        attempt.diagnosis.see(reply["step"], weights)
    row = evaluation_row(ledger, scored, reply, shared_weights.digest(weights))
    metrics, goal = attempt.scoring.judge(attempt.rows, row)
    row["metrics"], row["goal"] = metrics, goal
    row["progress"] = reply["step"] / attempt.trial.horizon
    row["evaluation_seconds"] = time.monotonic() - begun
    try:
        clock = reading.read([*attempt.evaluations, dict(row)], attempt.prices)
    except UserError as error:
        raise TrialEnded("failed", str(error)) from None
    row["reference_seconds"], row["interval"] = clock.total, [clock.low, clock.high]
    attempt.observer.row(attempt.append(dict(row)))
    ending = attempt.ending()
    _preserve_before_crossing(attempt)
    if ending and ending[0] in JUDGED and attempt.trial.isolation == "strict":
        # Whoever verifies the record evaluates them again.
        final_weights.keep(attempt.trial.folder, weights)
    # What trains of pretrained weights is measured from the checkpoint of step 0 on.
    worth = reply["step"] or attempt.running.pretrained
    if (ending is None or ending[0] == "reached") and worth:
        attempt.save()
    return ending


def _preserve_before_crossing(attempt: Attempt) -> None:
    """Keep the checkpoint before the first evaluation at the goal, for `harness refine`."""
    rows = attempt.evaluations
    if not attempt.streaming and judging.crossing(rows) == len(rows) - 2:
        folder = attempt.trial.folder
        place = folder / checkpoint.BEFORE_CROSSING
        checkpoint.preserve(folder / "checkpoint", rows[-3]["step"], place)


def _diagnosed(attempt: Attempt) -> dict:
    """Return what is measured of the last weights, or why it could not be: the trial is over."""
    assert attempt.diagnosis
    try:
        return attempt.diagnosis.result()
    except RuntimeError as error:
        message = str(error).splitlines()[0]
        attempt.observer.note(f"the diagnosis failed: {message}")
        return {"error": message}


def finish(attempt: Attempt, outcome: str, reason: str | None) -> Outcome:
    """Write the last row and run.json, and tell the observer."""
    trial = attempt.trial
    result = summarise(trial, attempt.rows, attempt.table, outcome, reason)
    result["wall"], result["load_average_end"] = attempt.wall, load_average()
    if attempt.diagnosis and outcome in JUDGED:
        result["diagnosis"] = _diagnosed(attempt)
    try:
        if attempt.rows:
            row = {"event": "ended", "outcome": outcome, "reason": reason, "step": result["step"]}
            result["chain"] = attempt.append(row | {"result": result})["chain"]
            attempt.observer.ended(trial, attempt.rows, result)
        if outcome != "interrupted":
            run_folder.finish(trial.folder, result)
    except (DiskFull, OSError) as error:
        outcome, message = not_ours(error) or ("failed", str(error))
        result |= {"outcome": outcome, "reason": f"the record could not be written: {message}"}
    return Outcome(outcome, trial.folder, result)
