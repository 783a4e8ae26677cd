"""The referee's handle on a runner: the interface, and what both kinds of runner share."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.catalog import definition, discover, reading
from harness.catalog.card import Card
from harness.race import message_schema
from harness.race.checkpoint_metrics import Held
from harness.race.trial import Trial
from harness.system import policy
from harness.system.paths import ROOT
from harness.system.signals import Signals
from harness.system.terminal import printable
from harness.train import predictor, shared_weights

if TYPE_CHECKING:
    from torch import Tensor


class TrialEnded(Exception):
    """The trial is over for a reason other than its metric."""

    def __init__(self, outcome: str, message: str):
        # It may quote what a submission wrote.
        message = printable(message)[: message_schema.TEXT]
        super().__init__(message)
        self.outcome, self.message = outcome, message

    def ending(self, card: Card) -> tuple[str, str]:
        """Return outcome and reason; a user's own file that does not fit has failed."""
        mine = card.plugin.package is None
        outcome = "failed" if self.outcome == "refused" and mine else self.outcome
        return outcome, self.message


def check_layout(theirs: list, ours: list) -> None:
    """Raise TrialEnded unless a runner's weights have the layout of the workload's model."""
    if problem := shared_weights.difference(theirs, ours):
        raise TrialEnded(
            "invalid", f"the submission's weights do not fit the workload's model: {problem}"
        )


class RunnerHandle(ABC):
    """What the referee asks of a runner, in its own process or in another.

    Args:
        tick: called with the number of finished steps, several times a second.

    Attributes:
        every: steps between two sets of weights that are handed over on the way; 0 for none.
        predicts: whether the submission answers with its own predictor.
        pretrained: whether training starts from weights that the workload gives.
        state_bytes: bytes of state that the runner reported last.
        harness: CPU seconds of the harness's own work in the runner: copies, checkpoints, timing.
        held: what the attempt's checkpoints show of trained scalars, if it starts from weights.
        keep: pids of the harness's own processes, which are not part of the runner's tree.
        layers: the active layers of isolation.
    """

    def __init__(self, trial: Trial, tick, signals: Signals):
        self.trial, self.tick, self.signals = trial, tick, signals
        self.deadlines = definition.DEADLINES | trial.definition.block.get("deadlines", {})
        self.progress = trial.folder / "progress"
        # The file may be damaged; no step beyond the horizon exists.
        count = self.progress.read_bytes()[:8] if self.progress.exists() else b""
        self.furthest = min(int.from_bytes(count, "little"), trial.horizon)
        self.predicts = predictor.NAME in trial.card.functions
        # A predictor answers for what it knows now, so steps on the way cannot be judged later.
        on_the_way = trial.definition.block["evaluate"].get("every", 0)
        self.every = 0 if self.predicts else on_the_way
        self.fd = shared_weights.shared_file()
        self.harness = 0.0
        self.pretrained = False
        self.held = Held()
        self.state_bytes = 0
        self.shared: shared_weights.SharedWeights  # once the layout is agreed
        self.keep: set[int] = set()
        self.layers: list[str] = []

    @abstractmethod
    def start(self, train: Path, start: Path | None) -> None:
        """Let the runner build the workload and load the submission.

        Args:
            train, start: folders of the training data and, if any, of the pretrained weights.
        """

    @abstractmethod
    def ready(self, layout: list) -> dict:
        """Wait until the runner is ready; return its first hand-over.

        Args:
            layout: that of the workload's model.

        Raises:
            TrialEnded: set-up failed, took too long, or the weights do not fit.
        """

    @abstractmethod
    def go(self, until: int) -> dict:
        """Let the runner train to step `until`, or to the next step once a signal asks for a stop.

        Returns:
            The hand-over, with `paused` and the CPU and wall seconds since the one before.

        Raises:
            TrialEnded: the runner failed, hung, was killed, broke a limit or made a false claim.
        """

    @abstractmethod
    def predict(self, questions: "Tensor") -> "Tensor":
        """Return the scores that the submission's own predictor gives these inputs."""

    @abstractmethod
    def answered(self) -> float:
        """Return the CPU seconds of the predictions since the last call; they are charged."""

    @abstractmethod
    def save(self) -> str:
        """Let the runner write a checkpoint; return its file's name, which holds its hash."""

    @abstractmethod
    def frozen(self) -> AbstractContextManager[None]:
        """Return a context in which nothing of the runner runs."""

    @abstractmethod
    def settle(self) -> None:
        """Take note that the attempt ended in order: nothing of it is left to be charged."""

    @abstractmethod
    def close(self) -> None:
        """End the runner and everything that it has started."""

    def _steps(self) -> int:
        """Return the steps that the runner says to have finished.

        They serve for display and deadlines, and are charged after a crash.
        """
        try:
            with open(self.progress, "rb") as file:
                return min(int.from_bytes(file.read(8), "little"), self.trial.horizon)
        except OSError:
            return 0

    def furthest_step(self) -> int:
        """Return the last step that any earlier attempt finished."""
        return self.furthest

    def restart_progress(self, step: int) -> None:
        """Set the step count back to where training goes on, so that lost steps count once."""
        with open(self.progress, "r+b") as file:
            file.write(step.to_bytes(8, "little"))

    def weights(self, slot: int = 0) -> dict:
        """Return copies of the weights in a slot."""
        return {name: tensor.clone() for name, tensor in self.shared.tensors(slot).items()}

    def _start_message(self, train: Path, start: Path | None) -> dict:
        return start_message(self.trial, self.progress, train, start)


def start_message(trial: Trial, progress: Path, train: Path, start: Path | None) -> dict:
    """Return the message that starts a runner.

    Args:
        progress: the file of the step count.
        train, start: folders of the training data and, if any, of the pretrained weights.
    """
    paths = {
        "root": str(ROOT),
        "train": str(train),
        "pretrained": start and str(start),
        "checkpoint": str(trial.folder / "checkpoint"),
        "progress": str(progress),
    }
    return trial.message() | paths


def policy_of(trial: Trial, writable: list[Path], data: list[Path | None]) -> dict:
    """Return the policy of a trial's runner.

    Args:
        writable: files and folders that it may write.
        data: folders of prepared data that it may read.
    """
    plugins = trial.card.plugin, trial.definition.plugin
    return policy.make(
        trial.isolation,
        writable=writable,
        data=data,
        sources=[path.resolve() for plugin in plugins for path in discover.readable(plugin)],
        plugins=reading.package_folders(),
        device=trial.engine["device"],
        hidden=[trial.results, *definition.places_of_data(trial.definition)],
        processes=trial.ranks,
    )
