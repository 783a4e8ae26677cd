"""The runner in the referee's own process, for debugging: no deadlines, not verified."""

import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.race.runner_base import RunnerHandle, TrialEnded, check_layout
from harness.race.trial import Trial
from harness.train import checkpoint, predictor, shared_weights
from harness.train.runner import ANCHORS

if TYPE_CHECKING:
    from torch import Tensor


class InlineRunner(RunnerHandle):
    """The runner's code, called directly. Its results are marked as not verified."""

    def __init__(self, trial: Trial, tick, signals, checkpoints=(), step_seconds: float = 0.0):
        super().__init__(trial, tick, signals)
        checkpoint.keep_only(trial.folder / "checkpoint", checkpoints)
        from harness.train.runner import Runner

        self.runner = Runner(self.fd)
        # The last step at which a reference step was timed.
        self._timed = 0

    def start(self, train: Path, start: Path | None) -> None:
        self.data, self.pretrained = (train, start), start is not None

    def ready(self, layout: list) -> dict:
        reply = self._guard(self.runner.start, self._start_message(*self.data))
        check_layout(reply["layout"], layout)
        self.shared = shared_weights.SharedWeights(self.fd, layout, self.trial.slots)
        self._timed = reply["step"]
        return reply | {"cpu": 0.0, "wall": 0.0}

    def go(self, until: int) -> dict:
        cpu, wall = time.process_time(), time.monotonic()

        def interrupted() -> bool:
            self.tick(self.runner.task.step)
            return self.signals.asked

        often = max(1, self.trial.horizon // ANCHORS)
        time_step = until - self._timed >= often
        reply = self._guard(self.runner.go, until, interrupted, self.every, time_step)
        if time_step:
            self._timed = reply["step"]
        return reply | {
            "paused": self.signals.asked,
            "cpu": time.process_time() - cpu,
            "wall": time.monotonic() - wall,
        }

    def predict(self, questions) -> "Tensor":
        return self._guard(predictor.answers, self.runner.submission, questions)

    def answered(self) -> float:
        return 0.0

    def save(self) -> str:
        self._guard(self.runner.save)
        return checkpoint.newest(self.trial.folder / "checkpoint")

    @contextmanager
    def frozen(self):
        yield

    def settle(self) -> None: ...

    def close(self) -> None:
        os.close(self.fd)

    def _guard(self, function, *arguments):
        from harness.train.failure import failure

        try:
            return function(*arguments)
        except (TrialEnded, KeyboardInterrupt):
            raise
        except BaseException as error:
            if self.signals.insisted:
                raise KeyboardInterrupt from error
            import traceback

            traceback.print_exc()
            report = failure(error)
            raise TrialEnded(report["outcome"], report["error"]) from error
