"""The order of training examples: shuffled, or that of a stream."""

from types import SimpleNamespace

import torch
from torch import Tensor

from harness.errors import UserError
from harness.seeds import derive


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


class Ordered:
    """Training examples in the order of a stream. Those of a step are given once, in that step.

    Args:
        workload, data, config, seed: `workload.stream(data, config, seed)` is the order,
            int64 [horizon * batch].
        task: the trial's task; its `step` and `batch_size` are read.
    """

    def __init__(self, workload, data: dict, config: SimpleNamespace, seed: int, task):
        self._order = workload.stream(data, config, derive(seed, "stream"))
        self._task, self.size, self.cursor = task, workload.size(data, config), 0
        counts = torch.bincount(self._order)
        assert len(self._order) == config.horizon * config.batch
        assert config.stream.recurring or counts.max() <= config.stream.passes

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
        return self._order[first : self.cursor]
