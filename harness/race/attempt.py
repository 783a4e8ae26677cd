"""One attempt at one trial: its log, its runner, and the clock's running sums."""

import time
from typing import TYPE_CHECKING, cast

from harness.clock import reading
from harness.clock.prices import Table
from harness.race.observer import Observer
from harness.race.runner_base import RunnerHandle
from harness.race.scoring import Scorer
from harness.race.trial import Trial
from harness.records import hopeless, judging, run_folder
from harness.records.judging import Ending
from harness.records.log import EvaluationRow, Log
from harness.records.log import rows as read_rows
from harness.system.signals import Signals

if TYPE_CHECKING:  # it imports torch, which the referee does after it starts the runner
    from harness.race.diagnosis import Diagnosis

# Fields of a hand-over that go into the log's row as they came.
REPLIED = (
    "step", "samples", "counts", "passes", "inside", "outside", "anchor", "hooked", "state_bytes",
)  # fmt: skip


def evaluation_row(ledger: dict, scored: dict, reply: dict, weights: str) -> EvaluationRow:
    """Return an evaluation's row as far as it is known before it is judged and priced.

    Args:
        ledger: the clock's part, `Attempt.ledger`.
        scored: what the weights are worth, `Scorer.score`.
        weights: the digest of the weights.
    """
    event = {"event": "evaluation", "train_loss": reply.get("train_loss")}
    row = ledger | event | scored | {"weights": weights}
    return cast(EvaluationRow, row)


def _last(rows: list[dict], key: str):
    """Return the value of the last row that has one, else 0."""
    return next((row[key] for row in reversed(rows) if key in row), 0)


class Attempt:
    """One attempt at one trial.

    Attributes:
        rows: the log's rows that count, those of earlier attempts included.
        continued: whether there were rows of earlier attempts.
        base: the row that training continues from, or None.
        lost: steps that were lost by crashes and are charged, over all attempts.
        table: prices in reference seconds, once a reference step has been timed here.
        diagnosis: measures the last weights, where that is asked for.
        wall: wall seconds by phase, for information.
    """

    def __init__(self, trial: Trial, observer: Observer, signals: Signals):
        self.trial, self.observer, self.signals = trial, observer, signals
        self.streaming = trial.terms.streaming
        self.wall = {"setup": 0.0, "training": 0.0, "evaluation": 0.0}
        self.rows: list[dict] = []
        self.continued, self.lost = False, 0
        self.base: dict | None = None
        self.log: Log | None = None
        self.runner: RunnerHandle | None = None
        self.scorer: Scorer | None = None
        self.table: Table | None = None
        self.diagnosis: Diagnosis | None = None
        self.step_seconds, self.setup_seconds = 0.0, 0.0
        self.spent = {"cpu_seconds": 0.0, "wall_seconds": 0.0}
        early = trial.hopeless and trial.until == "goal" and not self.streaming
        self.bound = hopeless.bound_for(trial.definition, trial.results) if early else None

    @property
    def running(self) -> RunnerHandle:
        """The runner, once it is started."""
        assert self.runner
        return self.runner

    @property
    def scoring(self) -> Scorer:
        """The scorer, once the runner is ready."""
        assert self.scorer
        return self.scorer

    @property
    def prices(self) -> Table:
        """The price table, once a reference step has been timed."""
        assert self.table
        return self.table

    @property
    def evaluations(self) -> list[dict]:
        """The evaluations that count, in order."""
        return run_folder.evaluations(self.rows)

    def open(self) -> None:
        """Write what the trial is, and read the rows of earlier attempts by the present goal."""
        run_folder.begin(self.trial)
        self.log = Log(self.trial.folder / "log.jsonl")
        every = list(read_rows(self.log.path)) if self.log.path.exists() else []
        self.rows = judging.rejudge(self.trial.terms, run_folder.valid_rows(every))
        self.continued = bool(every)
        self.lost = _last(every, "lost_steps")
        # Every attempt's set-up is charged, also where nothing came of it.
        self.setup_seconds = _last(every, "setup_seconds")

    def append(self, row: dict) -> dict:
        """Append a row to the log; return it as written."""
        assert self.log
        self.rows.append(self.log.append(row))
        return self.rows[-1]

    def ended_before(self) -> Ending | None:
        """Return how a trial that has ended before ends under the present goal; None to go on."""
        evaluations = self.evaluations
        if not evaluations or self.rows[-1]["event"] != "ended":
            return None
        self.table = self.trial.table.at(evaluations[-1]["anchor_seconds"])
        reading.reprice(evaluations, self.table)
        return self.ending()

    def ending(self) -> Ending | None:
        """Return the outcome that the last evaluation brings, or None if the trial goes on."""
        return judging.ending(self.trial.terms, self.evaluations, self.prices, self.bound)

    @property
    def checkpoints(self) -> set[str]:
        """The names of the checkpoints that the log tells of."""
        return {row["checkpoint"] for row in self.rows if row["event"] == "saved"}

    @property
    def evaluated_step(self) -> int:
        """The step of the last hand-over in the log."""
        return self._handed_over()[-1]["step"]

    @property
    def cpu_per_step(self) -> float:
        """The mean CPU seconds of a step so far; 0 before the first."""
        rows = [row for row in self._handed_over() if row["step"]]
        return rows[-1]["cpu_seconds"] / rows[-1]["step"] if rows else 0.0

    def row_at(self, step: int) -> dict | None:
        """Return the row of the hand-over at a step, or None."""
        known = [row for row in self._handed_over() if row["step"] == step]
        return known[-1] if known else None

    def continue_at(self, step: int) -> int:
        """Log that training continues at a step; return the steps that were lost."""
        logged = [row["step"] for row in self._handed_over()]
        lost = max(0, max([self.running.furthest_step(), *logged]) - step)
        self.lost += lost
        charged = {"lost_steps": self.lost, "setup_seconds": self.setup_seconds}
        self.append({"event": "resumed", "step": step} | charged)
        # After the row: what a crash between the two loses is charged twice, not never.
        self.running.restart_progress(step)
        self.rows = run_folder.valid_rows(self.rows)
        return lost

    def begin_at(self, base: dict | None, ready: dict) -> None:
        """Set the clock's running sums to those of the row that training continues from."""
        self.base, known = base, base or {}
        self.step_seconds = known.get("anchor_seconds", ready["anchor"])
        self.table = self.trial.table.at(self.step_seconds)
        self.spent = {name: known.get(name, 0.0) for name in self.spent}

    def save(self) -> None:
        """Let the runner write a checkpoint, and log its name, which holds its hash.

        An attempt continues from a checkpoint that the log tells of, and from no other.
        """
        name = self.running.save()
        self.append({"event": "saved", "step": self.evaluated_step, "checkpoint": name})

    def ledger(self, reply: dict) -> dict:
        """Return the clock's part of a row: counts so far, this segment's seconds, charges."""
        predicted = self.running.answered()
        self.spent["cpu_seconds"] += reply["cpu"] + predicted
        self.spent["wall_seconds"] += reply["wall"]
        return {
            **{name: reply[name] for name in REPLIED},
            "outside": reply["outside"] + predicted,
            "setup_seconds": self.setup_seconds,
            "anchor_seconds": self.step_seconds,
            "lost_steps": self.lost,
            "referee_cpu_seconds": time.process_time() + self.running.harness,
            "at": round(time.time(), 3),
            **({"skipped": reply["skipped"]} if "skipped" in reply else {}),
            **self.spent,
        }

    def _handed_over(self) -> list[dict]:
        return [row for row in self.rows if row["event"] in ("evaluation", "paused")]
