"""The parts of a batch that several processes take, and what they put together of their results."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.derivatives import Batch
from harness.errors import UserError
from harness.train.group import Group


def count_of(batch: Batch) -> int:
    """Return the number of examples of a batch."""
    return len(next(iter(batch.values())))


def generator_state(device: torch.device) -> Tensor:
    """Return the state of torch's generator for a device."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()


class Parts:
    """How the ranks of a group divide batches.

    Args:
        group: the processes.
    """

    def __init__(self, group: Group):
        self._group = group

    def mine(self, batch: Batch) -> slice:
        """Return which examples are this rank's."""
        return self._group.share(count_of(batch))

    def of(self, batch: Batch) -> Batch:
        """Return this rank's examples, and what does not belong to examples as it is.

        Raises:
            UserError: there are fewer examples than ranks.
        """
        count, mine = count_of(batch), self.mine(batch)
        if count < self._group.size:
            raise UserError(
                f"a pass of {count} examples cannot be shared by {self._group.size} processes",
                "at least one example a process",
                f"engine.processes={count}",
            )
        return {k: v[mine] if v.ndim and len(v) == count else v for k, v in batch.items()}

    def weight(self, batch: Batch) -> float:
        """Return the share of the examples that this rank has."""
        mine = self.mine(batch)
        return (mine.stop - mine.start) / count_of(batch)

    def mean(self, value: Tensor, batch: Batch) -> Tensor:
        """Return the mean over the batch of means over the ranks' parts."""
        return self._group.total([value * self.weight(batch)])[0]

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums over the ranks."""
        return self._group.total(tensors)

    def rows(self, part: Tensor, batch: Batch) -> slice:
        """Return which rows of the whole are those of this rank's part.

        Each example has the same number of rows, those of an example one after the other.
        """
        mine = self.mine(batch)
        rows, rest = divmod(len(part), mine.stop - mine.start)
        assert not rest, part.shape
        return slice(rows * mine.start, rows * mine.stop)

    def length(self, part: Tensor, batch: Batch) -> int:
        """Return the number of rows of the whole."""
        mine = self.mine(batch)
        return len(part) // (mine.stop - mine.start) * count_of(batch)

    def whole(self, part: Tensor, batch: Batch) -> Tensor:
        """Return the rows of all ranks."""
        mine = self.mine(batch)
        self.rows(part, batch)
        rows = len(part) // (mine.stop - mine.start)
        return self._group.joined(part, count_of(batch), rows)


class SharedDraws(TorchDispatchMode):
    """Within the block, dropout draws for a whole batch and takes the rows of one rank.

    Args:
        mine: the rank's examples.
        count: the number of examples of the batch.
    """

    def __init__(self, mine: slice, count: int):
        super().__init__()
        self._mine, self._count = mine, count

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten.bernoulli_.float and (rows := self._rows(args[0])):
            drawn = func(self._like(args[0]), *args[1:], **kwargs)
            return args[0].copy_(drawn[rows])
        if func is torch.ops.aten.native_dropout.default and (rows := self._rows(args[0])):
            p, training = args[1:3]
            if training and p < 1:
                mask = func(self._like(args[0]), *args[1:], **kwargs)[1][rows]
                return args[0] * mask / (1 - p), mask
        return func(*args, **kwargs)

    def _rows(self, part: Tensor) -> slice | None:
        """Return the rows of a tensor in that of the whole batch; None if it has no examples."""
        own = self._mine.stop - self._mine.start
        if not part.ndim or len(part) % own:
            return None
        rows = len(part) // own
        return slice(rows * self._mine.start, rows * self._mine.stop)

    def _like(self, part: Tensor) -> Tensor:
        """Return a tensor of the whole batch's shape."""
        rows = len(part) // (self._mine.stop - self._mine.start)
        return part.new_ones((rows * self._count, *part.shape[1:]))
