"""The order of training examples: shuffled, or a stream's own."""

from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from harness.errors import UserError
from harness.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor


class Shuffled:
    """Training examples in a seeded order, a new permutation each epoch: f(seed, cursor).

    An epoch that is drawn at once comes in the examples' own order: it has none to learn from.

    Args:
        size: number of training examples.
        seed: the trial's seed.
    """

    def __init__(self, size: int, seed: int):
        self.size, self.seed, self.cursor = size, seed, 0
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def next(self, count: int) -> Tensor:
        """The next `count` example numbers, int64 [count]."""
        parts, left = [], count
        while left:
            epoch, at = divmod(self.cursor, self.size)
            if not at and left >= self.size:
                self._epoch, self._order = epoch, torch.arange(self.size)
            elif epoch != self._epoch:
                generator = torch.Generator().manual_seed(derive(self.seed, "order", epoch))
                self._epoch, self._order = epoch, torch.randperm(self.size, generator=generator)
            part = self._order[at : at + left]
            parts.append(part)
            self.cursor += len(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class Ordered:
    """The stream's example numbers: those of a step are given in that step, and then no more.

    Args:
        workload, data, config, seed: `workload.stream(data, config, seed)` is the order,
            int64 [horizon * batch].
        task: its `step` and `batch_size` are read.
    """

    def __init__(self, workload, data: dict, config: SimpleNamespace, seed: int, task):
        import torch

        self._order = workload.stream(data, config, derive(seed, "stream"))
        self._task, self.size, self.cursor = task, workload.size(data, config), 0
        counts = torch.bincount(self._order)
        assert len(self._order) == config.horizon * config.batch
        assert config.stream.recurring or counts.max() <= config.stream.passes

    def next(self, count: int) -> "Tensor":
        """The examples of the present step, int64 [count].

        Raises:
            UserError: another number of examples, or the same step's for a second time.
        """
        size, first = self._task.batch_size, self._task.step * self._task.batch_size
        if count != size:
            raise UserError(f"next_batch({count}) of a stream", f"a stream gives {size} a step")
        if self.cursor > first:
            raise UserError(
                f"the examples of step {self._task.step} have been given",
                "a stream gives each once a pass",
                "keep what is to be used again in a harness.memory buffer",
            )
        self.cursor = first + size
        return self._order[first : self.cursor]
