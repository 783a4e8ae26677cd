"""Hand the examples of a stream to the runner, task by task."""

from bisect import bisect
from pathlib import Path

from harness.catalog import streams
from harness.catalog.data import open_data, write
from harness.catalog.definition import load_workload
from harness.errors import UserError
from harness.race.trial import Trial

FIRST = 0


class Arrivals:
    """Writes the parts of a stream's training data into a folder that the runner reads.

    Args:
        train: the folder of the whole training data, which the runner cannot read.
        folder: where the runner finds what it is given; created if missing.
    """

    def __init__(self, trial: Trial, train: Path, folder: Path):
        self._trial, self._train, self.folder = trial, train, folder
        self._given = FIRST
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def first(self) -> Path:
        """The file of the first task's part."""
        return self._path(FIRST)

    def begin(self) -> None:
        """Write what all tasks share, then the first task's part, which the runner waits for.

        Raises:
            UserError: the stream's examples are files.
        """
        from harness.train import arrival, order

        module, config = load_workload(self._trial.definition), self._trial.definition.config
        self._data = open_data(self._train)
        if files := [name for name, value in self._data.items() if isinstance(value, Path)]:
            name = self._trial.definition.name
            raise UserError(
                f"the stream {name} gives files ({files[0]}): later tasks would be there at once",
                "tensors with one row for each example",
                "read the files in data()",
            )
        self._size = module.size(self._data, config)
        self._order = order.of_stream(module, self._data, config, self._trial.seed)
        examples = arrival.by_example(self._data, self._size)
        write(self.folder, {k: v for k, v in self._data.items() if k not in examples})
        self._write(FIRST)

    def due(self, step: int) -> Path | None:
        """Write the part of the task that begins at a step; None if the runner has it.

        An attempt that continues in a later task is given that task's part as well.
        """
        task = bisect(streams.begins(self._trial.definition.config), step) - 1
        if task == self._given:
            return None
        self._path(self._given).unlink(missing_ok=True)
        self._given = task
        return self._write(task)

    def _write(self, task: int) -> Path:
        from harness.train import arrival

        config = self._trial.definition.config
        first, after = streams.begins(config)[task : task + 2]
        order = self._order[first * config.batch : after * config.batch]
        path = self._path(task)
        arrival.write(path, self._data, self._size, order, first)
        return path

    def _path(self, task: int) -> Path:
        return self.folder / f"task-{task}.safetensors"
