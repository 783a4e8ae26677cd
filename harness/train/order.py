"""The order of training examples: shuffled, that of a stream, or of those that have a label."""

from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor

from harness.errors import UserError
from harness.seeds import derive
from harness.train import arrival
from harness.train.labels import Labels


class Shuffled:
    """Training examples in a seeded order, with a new permutation each epoch.

    The order depends on the seed and the cursor alone. If one batch holds the whole epoch, it keeps
    the stored order, since the order of examples within a batch does not matter.

    Args:
        size: number of training examples.
        seed: the trial's seed.
    """

    def __init__(self, size: int, seed: int):
        self.size, self.seed, self.cursor = size, seed, 0
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def next(self, count: int) -> Tensor:
        """Return the numbers of the next `count` examples, int64 [count]."""
        parts, left = [], count
        while left:
            epoch, position = divmod(self.cursor, self.size)
            if not position and left >= self.size:
                self._epoch, self._order = epoch, torch.arange(self.size)
            elif epoch != self._epoch:
                generator = torch.Generator().manual_seed(derive(self.seed, "order", epoch))
                self._epoch, self._order = epoch, torch.randperm(self.size, generator=generator)
            part = self._order[position : position + left]
            parts.append(part)
            self.cursor += len(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class Labelled:
    """Those training examples that have a label, in a seeded order; new labels begin a new epoch.

    Args:
        size: number of training examples, with and without a label.
        seed: the trial's seed.
        labels: the trial's labels.
    """

    def __init__(self, size: int, seed: int, labels: Labels):
        self.size, self._seed, self._labels = size, seed, labels
        # Number of the epoch, position in it, examples of it.
        self._epoch, self._position, self._count = -1, 0, 0
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def cursor(self) -> list[int]:
        """Where the order stands: the epoch, the position in it, the number of its examples."""
        return [self._epoch, self._position, self._count]

    @cursor.setter
    def cursor(self, values: list[int]) -> None:
        self._begin(*values)

    def _begin(self, epoch: int, position: int, count: int) -> None:
        self._epoch, self._position, self._count = epoch, position, count
        generator = torch.Generator().manual_seed(derive(self._seed, "order", epoch))
        self._order = self._labels.known[:count][torch.randperm(count, generator=generator)]

    def next(self, count: int) -> Tensor:
        """Return the numbers of the next `count` examples, int64 [count]."""
        parts, left = [], count
        while left:
            known = len(self._labels.known)
            if self._position == self._count or self._count != known:
                self._begin(self._epoch + 1, 0, known)
            part = self._order[self._position : self._position + left]
            parts.append(part)
            self._position += len(part)
            left -= len(part)
        return torch.cat(parts)


class Ordered:
    """Training examples in the order of a stream. Those of a step are given once, in that step.

    Args:
        numbers: the examples in the order of training, int64; of the whole stream, or of a task.
        first: the step that the first of them belongs to.
        size: number of training examples of the stream.
        task: the trial's task; its `step` and `batch_size` are read.
    """

    def __init__(self, numbers: Tensor, first: int, size: int, task):
        self.numbers, self._first = numbers, first
        self._task, self.size, self.cursor = task, size, 0

    def receive(self, part: Path, data: dict, device: torch.device) -> None:
        """Go on with the examples of another task, which are in a file (arrival.py)."""
        self.numbers, self._first = arrival.receive(part, data, device)

    def next(self, count: int) -> Tensor:
        """Return the numbers of the present step's examples, int64 [count].

        Raises:
            UserError: a step has another number of examples, or these were given already.
        """
        size, first = self._task.batch_size, self._task.step * self._task.batch_size
        if count != size:
            raise UserError(f"next_batch({count}) of a stream", f"a stream gives {size} a step")
        if self.cursor > first:
            raise UserError(
                f"the examples of step {self._task.step} were given already",
                "a stream gives each example once a pass",
                "keep examples for later use in a harness.memory buffer",
            )
        self.cursor = first + size
        offset = first - self._first * size
        if not 0 <= offset < len(self.numbers):
            raise UserError(f"the examples of step {self._task.step} have not arrived")
        return self.numbers[offset : offset + size]


def of_stream(workload: ModuleType, data: dict, config: SimpleNamespace, seed: int) -> Tensor:
    """Return the order of a stream's examples for a trial's seed, int64 [horizon * batch]."""
    numbers = workload.stream(data, config, derive(seed, "stream"))
    assert len(numbers) == config.horizon * config.batch
    assert config.stream.recurring or torch.bincount(numbers).max() <= config.stream.passes
    return numbers


def of_task(
    task,
    workload: ModuleType,
    data: dict,
    config: SimpleNamespace,
    seed: int,
    part: Path | None = None,
) -> Shuffled | Ordered | Labelled:
    """Return the order of a trial's examples.

    Args:
        part: the file of a stream's first task (arrival.py); without it, `data` has all examples.
    """
    if part:
        numbers, first = arrival.receive(part, data, next(task.model.parameters()).device)
        return Ordered(numbers, first, workload.size(data, config), task)
    size = workload.size(data, config)
    if hasattr(config, "stream"):
        return Ordered(of_stream(workload, data, config, seed), 0, size, task)
    return Shuffled(size, seed) if task.labels is None else Labelled(size, seed, task.labels)
