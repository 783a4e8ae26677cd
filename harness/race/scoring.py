"""What an evaluation finds and whether it counts as the goal's: of a model, or of a whole stream.

One face for both, so that the referee does not ask which it is at. A judge adds to a row what its
weights are worth (`see`, at every hand-over), and at evaluations the goal's metrics (`judge`).
Judging is a function of the log's rows alone, so a finished trial can be judged again (`again`).
"""

from harness.errors import UserError, nearest
from harness.race.trial import Trial
from harness.records import stream_metrics
from harness.records.judging import meets
from harness.train import predictor


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
            return stream_metrics.look(self._evaluator, self._runner, handed, reply, block)
        declared = reply["trainable"], reply["merged"], reply["training_memory"]
        return {"metrics": self._evaluator(handed, reply["active"], declared)}

    def judge(self, rows: list[dict], row: dict) -> dict:
        """The row's `metrics` and `goal`, given the rows before it.

        Raises:
            UserError: the goal names a metric that nothing measures.
        """
        block = self._trial.definition.block
        if self._streaming:
            metrics = stream_metrics.judge(block, [*rows, row], row["state_bytes"])[0]
        else:
            metrics = row["metrics"]
        if unknown := sorted(block["goal"].keys() - metrics.keys()):
            raise UserError(
                f"the goal names a metric {unknown[0]!r} that nothing measures",
                nearest(unknown[0], metrics),
            )
        row = row | {"metrics": metrics}
        return {"metrics": metrics, "goal": meets(self._trial, rows, row)}
