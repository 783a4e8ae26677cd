"""What an evaluation finds and whether it counts as the goal's: of a model, or of a whole stream.

One face for both, so that the referee does not ask which it is at. A judge adds to a row what its
weights are worth (`see`, at every hand-over), and at evaluations the goal's metrics (`judge`).
Judging is a function of the log's rows alone, so a finished trial can be judged again (`again`).
"""

from harness import continual, predictor, record, workload
from harness.errors import UserError, nearest
from harness.plan import Trial


class Judge:
    """Scores what a runner hands over, by the referee's own evaluator."""

    def __init__(self, trial: Trial, evaluator, runner):
        self._trial, self._evaluator, self._runner = trial, evaluator, runner
        self._streaming = "stream" in trial.definition.block

    def ask(self) -> None:
        """Let a submission with a predictor of its own answer; ValueError where it does not."""
        predictor.ask(self._evaluator, self._runner)

    def see(self, reply: dict, handed: dict) -> dict:
        """What the weights are worth, as part of a log's row: metrics, or a stream's raw counts.

        Raises:
            ValueError: they do not fit the workload's model.
        """
        if self._streaming:
            block = self._trial.definition.block
            return continual.look(self._evaluator, self._runner, handed, reply, block)
        declared = reply["trainable"], reply["merged"], reply["training_memory"]
        return {"metrics": self._evaluator(handed, reply["active"], declared)}

    def judge(self, rows: list[dict], row: dict) -> dict:
        """The row's `metrics` and `goal`, given the rows before it.

        Raises:
            UserError: the goal names a metric that nothing measures.
        """
        block = self._trial.definition.block
        if self._streaming:
            metrics = continual.judge(block, [*rows, row], row["state_bytes"])[0]
        else:
            metrics = row["metrics"]
        if unknown := sorted(block["goal"].keys() - metrics.keys()):
            raise UserError(
                f"the goal names a metric {unknown[0]!r} that nothing measures",
                nearest(unknown[0], metrics),
            )
        row = row | {"metrics": metrics}
        return {"metrics": metrics, "goal": meets(self._trial, rows, row)}


def meets(trial: Trial, rows: list[dict], row: dict) -> bool:
    """Whether an evaluation's row meets the goal; of a stream, only its end can.

    A stream's goal must hold at its last two evaluations, which may lie between two rows.
    """
    block = trial.definition.block
    if not workload.meets(block["goal"], row["metrics"]):
        return False
    if "stream" not in block:
        return True
    before = continual.judge(block, [*rows, row], row["state_bytes"])[1]
    return row["step"] == trial.horizon and workload.meets(block["goal"], before)


def again(trial: Trial, rows: list[dict]) -> None:
    """Let every evaluation among a log's rows say whether it meets the goal as it is now."""
    for i, row in enumerate(rows):
        if row["event"] == "evaluation":
            row["goal"] = meets(trial, rows[:i], row)


def stands(trial: Trial, done: dict) -> bool:
    """Whether a finished trial's record is what was asked for.

    It is not where the goal's bounds or the measured prices have changed since, or where a trial
    that stopped at its goal is now to use up its budget: then the log is judged again, and the
    trial goes on if it must.
    """
    stopped = done["outcome"] == "reached" and done["step"] < done["horizon"]
    return (
        done["workload_hash"] == trial.definition.hash
        and (trial.table.provisional or done.get("prices") in (None, trial.table.origin))
        and not (trial.until == "budget" and stopped)
    )


def ended(rows: list[dict]) -> list[dict]:
    """The evaluations of a trial that has ended before; none if it has not."""
    seen = record.evaluations(rows)
    return seen if seen and rows[-1]["event"] == "ended" else []
