"""The parent process of a trial: owns clock, evaluation, goal and record; a runner trains."""

import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from harness.catalog import data
from harness.clock.reading import read, reprice
from harness.errors import UserError
from harness.race import scoring
from harness.race.runner_inline import InlineRunner
from harness.race.runner_process import Ended, ProcessRunner
from harness.race.trial import Trial
from harness.records import hopeless, judging, run_folder
from harness.records.judging import Ending, crossing, ending
from harness.records.log import Log
from harness.records.log import rows as read_rows
from harness.report.run import mirror, picture
from harness.system.files import DiskFull, locked
from harness.system.machine import environment, load_average
from harness.system.processes import keep_freed_memory
from harness.system.signals import Signals
from harness.train import checkpoint, shared_weights
from harness.train.failure import of_machine

# What a row of the log has of a hand-over as it came.
REPLIED = (
    "step", "samples", "counts", "passes", "inside", "outside", "anchor", "hooked", "state_bytes",
)  # fmt: skip


@dataclass
class Outcome:
    """How a trial ended: its record (run.json's content) and where it is kept."""

    outcome: str
    folder: Path
    record: dict

    @property
    def exit_code(self) -> int:
        return run_folder.exit_code(self.outcome)


def race(trial: Trial, tracker: dict, display) -> Outcome:
    """Run the trial to its outcome, or continue it, or report that it was run before."""
    try:
        trial.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write into {trial.results}: {error.strerror}", do="results=FOLDER"
        ) from None
    with locked(trial.folder) as mine:
        if not mine:
            display.note(
                f"{trial.label} {trial.run_id} is being run by another process: left to it"
            )
            return Outcome("busy", trial.folder, {"outcome": "busy"})
        if (done := run_folder.finished(trial.folder)) and judging.stands(trial, done):
            return Outcome(done["outcome"], trial.folder, done | {"earlier": True})
        (trial.folder / "run.json").unlink(missing_ok=True)  # of an attempt that failed
        with Signals() as signals:
            return _Race(trial, tracker, display, signals).run()


class _Race:
    """One attempt at one trial."""

    def __init__(self, trial: Trial, tracker: dict, display, signals: Signals):
        self.trial, self.tracker, self.display, self.signals = trial, tracker, display, signals
        self.folder = trial.folder
        self.wall = {"setup": 0.0, "training": 0.0, "evaluation": 0.0}
        self.rows: list[dict] = []
        self.streaming = "stream" in trial.definition.block
        early = trial.hopeless and trial.until == "goal" and not self.streaming
        self.bound = hopeless.judge(trial.definition, trial.results) if early else None
        self.runner: ProcessRunner | InlineRunner

    def run(self) -> Outcome:
        try:
            run_folder.begin(self.trial)
            self.log = Log(self.folder / "log.jsonl")
            self._load_history()
            outcome, error = self._attempt()
        except Ended as ended:
            outcome, error = ended.outcome, ended.message
        except DiskFull as full:
            outcome, error = "disk_full", str(full)
        except (KeyboardInterrupt, Exception) as trouble:
            if isinstance(trouble, KeyboardInterrupt) or self.signals.insisted:
                outcome, error = "interrupted", "stopped at once by a second Ctrl-C"
            elif found := of_machine(trouble):
                outcome, error = found
            else:
                raise
        finally:
            self.signals.over = True
            if hasattr(self, "runner"):
                self.runner.close()
        return self._end(outcome, error)

    def _load_history(self) -> None:
        """Rows of earlier attempts, judged by the present goal."""
        every = list(read_rows(self.log.path)) if self.log.path.exists() else []
        self.rows, self.earlier = run_folder.valid_rows(every), bool(every)
        judging.again(self.trial, self.rows)
        self.lost = next(
            (row["lost_steps"] for row in reversed(every) if row["event"] == "resumed"), 0
        )

    def _over(self) -> Ending | None:
        """How a trial that has ended before ends under the present goal; None if it goes on."""
        if not (seen := judging.ended(self.rows)):
            return None
        self.table = self.trial.table.at(seen[-1]["anchor_seconds"])
        reprice(seen, self.table)
        return self._verdict()

    def _attempt(self) -> Ending:
        if over := self._over():
            return over
        trial, started = self.trial, time.monotonic()
        keep_freed_memory()
        make = InlineRunner if trial.isolation == "inline" else ProcessRunner
        self.runner = make(trial, self._tick, self.signals)  # first: it imports torch while we do
        train = data.prepare(trial.definition, "train", trial.seed)
        validation = data.prepare(trial.definition, "val", trial.seed)
        start = data.prepare(trial.definition, data.PRETRAINED)
        assert train is not None
        assert validation is not None
        self.runner.start(train, start)
        import torch

        from harness.race.evaluator import Evaluator

        if trial.engine["device"].startswith("cuda") and not torch.cuda.is_available():
            raise UserError(
                f"torch sees no GPU for engine.device={trial.engine['device']}",
                do="engine=cpu, or harness doctor",
            )
        torch.set_num_threads(trial.engine["threads"])
        evaluator = Evaluator(
            trial.definition, validation, trial.engine["device"], trial.seed, start
        )
        ready = self.runner.ready(evaluator.layout)
        self.wall["setup"] = time.monotonic() - started
        self._resume(ready)
        if mirrored := mirror.spawn(self.folder, SimpleNamespace(**self.tracker)):
            self.runner.keep.add(mirrored.pid)
        self.judge = scoring.Judge(trial, evaluator, self.runner)
        return self._loop(ready)

    def _resume(self, ready: dict) -> None:
        """Continue the log where the checkpoint was made, or begin it."""
        trial, step = self.trial, ready["step"]
        known = [
            row
            for row in self.rows
            if row["event"] in ("evaluation", "paused") and row["step"] == step
        ]
        self.base = known[-1] if known else None
        if step and not self.base:
            told = f"the checkpoint of step {step} is not in the log"
            raise Ended("failed", f"{told}; remove {self.folder} to start again")
        same = self.base and self.base["weights"] == shared_weights.digest(self.runner.weights())
        if self.base and not (same and self.base["counts"] == ready["counts"]):
            told = f"other weights came back at step {step} than were handed over there"
            raise Ended("failed", f"{told}; remove {self.folder} to start again")
        if not self.earlier:
            kept = {"environment": environment(), "isolation_layers": self.runner.layers}
            self._append({"event": "started"} | trial.describe() | kept)
        else:
            logged = [row["step"] for row in self.rows if row["event"] in ("evaluation", "paused")]
            lost = max(0, max([self.runner.furthest_step(), *logged]) - step)
            self.lost += lost
            self._append({"event": "resumed", "step": step, "lost_steps": self.lost})
            # After the row: what a crash between the two loses is charged twice, not never.
            self.runner.restart_progress(step)
            self.rows = run_folder.valid_rows(self.rows)
            for text in ready["warnings"]:
                self.display.note(text)
            charged = f"; {lost} steps were lost and are charged" if lost else ""
            self.display.note(f"continued at step {step} of {trial.horizon}{charged}")
        price = (self.base or {}).get("anchor_seconds", ready["anchor"])
        self.anchor, self.setup = price, (self.base or {}).get("setup_seconds", ready["setup"])
        self.table = trial.table.at(price)
        self.spent = {
            name: (self.base or {}).get(name, 0.0) for name in ("cpu_seconds", "wall_seconds")
        }

    def _loop(self, ready: dict) -> Ending:
        asked = "interrupted", "asked to stop; the same command continues it"
        verdict = self._verdict() if self.base else self._judge(ready)
        for step in [s for s in self.trial.grid if s > ready["step"]]:
            if verdict or self.signals.asked:
                break
            begun = time.monotonic()
            reply = self.runner.go(step)
            self.wall["training"] += time.monotonic() - begun
            if reply["paused"] and reply["step"] < step:
                self._pause(reply)
                return asked
            verdict = self._judge(reply)
        return verdict or asked

    def _pause(self, reply: dict) -> None:
        """Log and save a trial between two evaluations."""
        row, handed = self._ledger(reply) | {"event": "paused"}, self.runner.weights()
        if self.streaming:  # the rows between two evaluations are part of its curve
            self.judge.ask()
            row |= self.judge.see(reply, handed)
        self._append(row | {"weights": shared_weights.digest(handed)})
        self.runner.save()

    def _judge(self, reply: dict) -> Ending | None:
        """Evaluate what was handed over, log it, save, and say how the trial ended, if it did."""
        begun = time.monotonic()
        row = self._ledger(reply) | {"event": "evaluation", "train_loss": reply.get("train_loss")}
        try:
            self.judge.ask()
            with self.runner.frozen():
                handed = self.runner.weights()
                row |= self.judge.see(reply, handed)
        except ValueError as error:
            raise Ended("invalid", str(error)) from None
        self.wall["evaluation"] += time.monotonic() - begun
        row |= self.judge.judge(self.rows, row)
        row["weights"] = shared_weights.digest(handed)
        row["progress"] = reply["step"] / self.trial.horizon
        row["evaluation_seconds"] = time.monotonic() - begun
        try:
            reading = read(run_folder.evaluations([*self.rows, row]), self.table)
        except UserError as error:  # a kind without a price
            raise Ended("failed", str(error)) from None
        row["reference_seconds"], row["interval"] = reading.total, [reading.low, reading.high]
        self._append(row)
        self.display.update(row)
        verdict = self._verdict()
        rows = run_folder.evaluations(self.rows)
        if not self.streaming and crossing(rows) == len(rows) - 2:
            before = rows[-3]["step"]
            place = self.folder / checkpoint.BEFORE_CROSSING
            checkpoint.put_by(self.folder / "checkpoint", before, place)
        if (verdict is None or verdict[0] == "reached") and reply["step"]:
            self.runner.save()
        return verdict

    def _verdict(self) -> Ending | None:
        return ending(self.trial, run_folder.evaluations(self.rows), self.table, self.bound)

    def _ledger(self, reply: dict) -> dict:
        """The clock's part of a row: counts so far, this segment's seconds, first charges."""
        self.spent["cpu_seconds"] += reply["cpu"]
        self.spent["wall_seconds"] += reply["wall"]
        return {
            **{name: reply[name] for name in REPLIED},
            "setup_seconds": self.setup,
            "anchor_seconds": self.anchor,
            "lost_steps": self.lost,
            "referee_cpu_seconds": time.process_time() + self.runner.harness,
            "at": round(time.time(), 3),
            **self.spent,
        }

    def _append(self, row: dict) -> None:
        self.rows.append(self.log.append(row))

    def _tick(self, step: int) -> None:
        self.display.tick(step)

    def _end(self, outcome: str, error: str | None) -> Outcome:
        """Write the last row and run.json, and let the mirror finish."""
        from harness.records.result import summarise

        result = summarise(self.trial, self.rows, getattr(self, "table", None), outcome, error)
        result["wall"], result["load_average_end"] = self.wall, load_average()
        try:
            if self.rows:
                result["chain"] = self.log.append(
                    {
                        "event": "ended",
                        "outcome": outcome,
                        "reason": error,
                        "step": result["step"],
                        "result": result,
                    }
                )["chain"]
                self._draw(result)
            if outcome != "interrupted":
                run_folder.finish(self.folder, result)
        except (DiskFull, OSError) as trouble:
            outcome, told = of_machine(trouble) or ("failed", str(trouble))
            result |= {"outcome": outcome, "reason": f"the record could not be written: {told}"}
        return Outcome(outcome, self.folder, result)

    def _draw(self, result: dict) -> None:
        """Draw the curve; a record without its picture is whole."""
        try:
            picture.draw_trial(self.trial, self.rows, result)
        except (UserError, OSError) as trouble:
            self.display.note(f"no picture of the curve: {trouble}")
