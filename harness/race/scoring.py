"""Score what a runner hands over, with the referee's own evaluator.

Models and streams share one interface, so the referee needs no special case: `score` gives the part
of a row that says what the weights are worth, `judge` adds the goal's metrics at an evaluation.
"""

from typing import TYPE_CHECKING

from harness.catalog import labels
from harness.catalog.streams import watched
from harness.errors import UserError, nearest
from harness.race.runner_base import RunnerHandle
from harness.race.trial import Trial
from harness.records import judging, stream_metrics
from harness.records.log import EvaluationRow
from harness.train import predictor, privacy

if TYPE_CHECKING:  # the evaluator imports torch, which the referee does after it starts the runner
    from harness.race.evaluator import Evaluator


class Scorer:
    """Scores the weights of one trial."""

    def __init__(self, trial: Trial, evaluator: "Evaluator", runner: RunnerHandle):
        self._block, self._terms = trial.definition.block, trial.terms
        self._evaluator, self._runner = evaluator, runner

    def ask(self, step: int) -> None:
        """Let a submission that has its own predictor answer, for what is evaluated at a step.

        Raises:
            ValueError: its answers are not scores of the validation examples.
        """
        count = watched(self._block, step) if self._terms.streaming else None
        predictor.ask(self._evaluator, self._runner, count)

    def score(self, reply: dict, weights: dict) -> dict:
        """Return the row's part that depends on the weights: metrics, or a stream's raw counts.

        Raises:
            ValueError: the weights do not fit the workload's model.
        """
        if self._terms.streaming:
            return self._score_stream(reply, weights)
        declared = reply["trainable"], reply["merged"], reply["training_memory"]
        held = self._runner.held
        metrics = self._evaluator(weights, reply["active"], declared, held)
        if "private" in self._block:
            metrics["epsilon"] = privacy.spent(self._block, reply["privacy"])
        if labels.BLOCK in self._block:
            metrics[labels.BLOCK] = labels.given(self._block, reply["counts"])
        return {"metrics": metrics}

    def _score_stream(self, reply: dict, weights: dict) -> dict:
        """Return `tasks`, the counts at the row's step, and `trace`, those of the steps before."""

        def counts(tensors: dict, step: int) -> list[list]:
            return self._evaluator.groups(tensors, reply["active"], watched(self._block, step))

        passed = enumerate(reply.get("passed", ()), start=1)
        trace = [[step, counts(self._runner.weights(slot), step)] for slot, step in passed]
        return {"tasks": counts(weights, reply["step"]), "trace": trace}

    def judge(self, earlier: list[dict], row: EvaluationRow) -> tuple[dict[str, float], bool]:
        """Return an evaluation's metrics of the goal, and whether they meet it.

        Args:
            earlier: the log's rows before `row`.

        Raises:
            UserError: the goal names a metric that nothing measures.
        """
        if self._terms.streaming:
            rows = [*earlier, dict(row)]
            metrics = stream_metrics.goal_metrics(self._block, rows, row["state_bytes"])[0]
        else:
            metrics = row["metrics"]
        if unknown := sorted(self._terms.goal.keys() - metrics.keys()):
            raise UserError(
                f"the goal names a metric {unknown[0]!r} that nothing measures",
                nearest(unknown[0], metrics),
            )
        judged = dict(row) | {"metrics": metrics}
        return metrics, judging.goal_met(self._terms, earlier, judged)
