"""The order of training examples where the workload prescribes none."""

import torch
from torch import Tensor

from harness.seeds import derive


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
