"""What both holds on a runner share: the shelf of weights, deadlines, and how a trial is ended."""

from pathlib import Path

from harness.catalog import definition
from harness.race.trial import Trial
from harness.train import predictor, shared_weights


class Ended(Exception):
    """The trial is over for a reason other than its metric."""

    def __init__(self, outcome: str, message: str):
        super().__init__(message)
        self.outcome, self.message = outcome, message


def check_layout(theirs: list, ours: list) -> None:
    if problem := shared_weights.difference(theirs, ours):
        raise Ended(
            "invalid", f"the submission's weights do not fit the workload's model: {problem}"
        )


class Hold:
    """What both runners share: the shelf of shared weights and the furthest step reached."""

    def __init__(self, trial: Trial, tick, signals):
        self.trial, self.tick, self.signals = trial, tick, signals
        self.deadlines = definition.DEADLINES | trial.definition.block.get("deadlines", {})
        self.progress = trial.folder / "progress"
        said = self.progress.read_bytes()[:8] if self.progress.exists() else b""
        self.furthest = min(int.from_bytes(said, "little"), trial.horizon)  # it may be damaged
        self.predicts = predictor.NAME in trial.card.functions
        self.every = trial.definition.block["evaluate"].get(
            "every", 0
        )  # steps between two sets of weights
        if self.predicts:
            self.every = 0  # it answers for what it knows now
        self.fd = shared_weights.shared_file()
        self.harness = 0.0  # CPU seconds of our own work in the runner: copies, checkpoints, timing
        self.shelf: shared_weights.Shelf  # once the layout is agreed
        self.keep: set[int] = set()  # our own helpers, which are no part of the runner's tree
        self.layers: list[str] = []  # of isolation, as far as they are active

    def furthest_step(self) -> int:
        """The last step that any earlier attempt finished."""
        return self.furthest

    def restart_progress(self, step: int) -> None:
        """Set the step count back to where training goes on: lost steps count once."""
        with open(self.progress, "r+b") as file:
            file.write(step.to_bytes(8, "little"))

    def weights(self, slot: int = 0) -> dict:
        return {name: tensor.clone() for name, tensor in self.shelf.tensors(slot).items()}

    def _start_message(self, train: Path, start: Path | None) -> dict:
        paths = {
            "train": str(train),
            "pretrained": start and str(start),
            "checkpoint": str(self.trial.folder / "checkpoint"),
            "progress": str(self.progress),
        }
        return self.trial.message() | paths
