"""Sell labels to the runner: the referee has them, counts those it gives, and shows no others."""

from pathlib import Path
from typing import TYPE_CHECKING

from harness.catalog.data import PATHS, open_data, write
from harness.catalog.definition import load_workload
from harness.catalog.kinds import LABEL
from harness.catalog.labels import BLOCK
from harness.race.message_schema import FalseClaim
from harness.race.trial import Trial
from harness.train import predictor

if TYPE_CHECKING:
    from torch import Tensor

# The name of the folder with the training data that a runner sees.
FOLDER = "labels"


class LabelOffice:
    """The labels of one attempt at a trial.

    What an earlier attempt bought after its last checkpoint is lost with it, so an attempt begins
    with the number that the log has of its first step.

    Args:
        train: the folder of the whole training data, which the runner cannot read.
        folder: where the runner finds the training data without the labels.
    """

    def __init__(self, trial: Trial, train: Path, folder: Path):
        self._trial, self._train, self.folder = trial, train, folder
        # Labels bought before this attempt, and the examples whose labels were asked for in it.
        self._before, self._asked = 0, set()
        self._labels: Tensor
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def ready(self) -> Path:
        """The file whose presence means that the folder is complete."""
        return self.folder / PATHS

    def open(self) -> None:
        """Write the training data, in which only the labels of the start are shown."""
        from harness.train import labels

        data, config = open_data(self._train), self._trial.definition.config
        size = load_workload(self._trial.definition).size(data, config)
        self._labels = data[config.labels.tensor]
        known = labels.first(size, config.labels.start, self._trial.seed)
        write(self.folder, data | {config.labels.tensor: labels.hidden(self._labels, known)})

    def begin(self, counts: dict[str, int]) -> None:
        """Take the number of labels at the attempt's first step, which the log confirms."""
        self._before = counts.get(LABEL, 0)

    def answer(self, index: list[int]) -> dict:
        """Return the labels of these examples as part of a message, and count them.

        Raises:
            FalseClaim: there is no such example.
        """
        if index and max(index) >= len(self._labels):
            raise FalseClaim(f"the runner asked for the label of example {max(index)}")
        self._asked.update(index)
        return predictor.pack(self._labels[index])

    def check(self, counts: dict[str, int]) -> None:
        """Check the number of labels in a hand-over.

        Raises:
            FalseClaim: it is not the number that was sold.
        """
        claimed, sold = counts.get(LABEL, 0), self._before + len(self._asked)
        if claimed != sold:
            raise FalseClaim(f"what the runner says cannot be: {claimed} labels, {sold} were sold")


def office_of(trial: Trial, train: Path, private: Path) -> LabelOffice | None:
    """Return the office of a workload that sells labels, or None for any other."""
    sells = BLOCK in trial.definition.block
    return LabelOffice(trial, train, private / FOLDER) if sells else None
