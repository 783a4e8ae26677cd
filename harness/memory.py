"""A memory of training examples that is bounded in bytes, for submissions on streams."""

import torch
from torch import Tensor

from harness.batch import labels
from harness.errors import UserError


class Buffer:
    """Examples kept out of batches, as many as fit into `limit` bytes.

    What an example takes is counted from the first batch: all of its tensors, labels included. A
    tensor of one's own with a row an example (scores, features, a loss) may be added to the batch:
    it is kept, counted and returned like the others.

    Args:
        limit: bytes, for example `task.memory`.

    Attributes:
        data: one tensor [capacity, ...] for each entry of a batch.
        count: examples kept; seen: examples offered so far.
    """

    def __init__(self, limit: int):
        self.limit, self.count, self.seen = limit, 0, 0
        self.data: dict[str, Tensor] = {}
        self.offered = torch.zeros(0, dtype=torch.int64)  # how many of each class, if balanced

    def __len__(self) -> int:
        return self.count

    def capacity(self, batch: dict[str, Tensor]) -> int:
        """Return how many examples like those of the batch fit."""
        return self.limit // sum(t[0].numel() * t.element_size() for t in batch.values())

    def add(self, batch: dict[str, Tensor], rng: torch.Generator) -> None:
        """Reservoir sampling (Vitter 1985): every example seen is kept with the same probability.

        The n-th goes to place floor(u·n) if that is within the capacity, u uniform in [0, 1).
        """
        size = len(next(iter(batch.values())))
        left = torch.arange(self._fill(batch), size)
        numbers = self.seen + left + 1
        drawn = (torch.rand(len(left), dtype=torch.float64, generator=rng) * numbers).long()
        kept = drawn < self.count
        self._put(batch, left[kept].tolist(), drawn[kept].tolist())
        self.seen += size

    def add_balanced(self, batch: dict[str, Tensor], rng: torch.Generator) -> None:
        """Class-balancing reservoir sampling (Chrysakis and Moens, ICML 2020).

        When full, a class is sampled as a reservoir of its own while it is among the largest; an
        example of another class takes the place of one of a largest class. The paper remembers a
        class that was once among the largest; here it is one no longer when others have more.
        """
        targets = labels(batch)
        placed, offered = self._fill(batch), self.offered
        for i, label in enumerate(targets.tolist()):
            more = torch.zeros(max(0, label + 1 - len(offered)), dtype=torch.int64)
            self.offered = offered = torch.cat([offered, more])
            offered[label] += 1
            if i < placed:
                continue
            held = self.data["targets"].cpu()
            counts = torch.bincount(held, minlength=len(offered))
            most, u = int(counts.max()), torch.rand(2, dtype=torch.float64, generator=rng)
            if counts[label] < most:
                victims = (counts[held] == most).nonzero()[:, 0]
            elif u[0] < counts[label] / offered[label]:
                victims = (held == label).nonzero()[:, 0]
            else:
                continue
            self._put(batch, [i], [int(victims[int(u[1] * len(victims))])])
        self.seen += len(targets)

    def add_first(self, batch: dict[str, Tensor]) -> None:
        """Keep examples until the memory is full, then none."""
        self._fill(batch)
        self.seen += len(next(iter(batch.values())))

    def shrink(self, limit: int) -> None:
        """Keep the first examples, as many as fit into another number of bytes."""
        self.limit = limit
        if self.count:
            self.count = min(self.count, self.capacity(self.data))
            self.data = {k: t[: self.count].clone() for k, t in self.data.items()}

    def sample(self, size: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Examples drawn at random: distinct ones where there are as many, else with repetition."""
        if not self.count:
            raise UserError("an empty memory has no examples to sample")
        if size <= self.count:
            index = torch.randperm(self.count, generator=rng)[:size]
        else:
            index = torch.randint(self.count, (size,), generator=rng)
        return self.at(index)

    def at(self, index: Tensor) -> dict[str, Tensor]:
        """Return the examples in these places."""
        return {k: t[index.to(t.device)] for k, t in self.data.items()}

    def state_dict(self) -> dict:
        return {key: getattr(self, key) for key in ("limit", "count", "seen", "data", "offered")}

    def load_state_dict(self, state: dict) -> None:
        for key, value in state.items():
            setattr(self, key, value)

    def _fill(self, batch: dict[str, Tensor]) -> int:
        """Put the batch's first examples into free places; returns how many."""
        capacity = self.capacity(batch)
        if not capacity:
            raise UserError(f"a memory of {self.limit} bytes holds no example")
        free = min(capacity - self.count, len(next(iter(batch.values()))))
        if free > 0:
            for key, tensor in batch.items():
                kept = [self.data[key]] if self.count else []
                self.data[key] = torch.cat([*kept, tensor[:free]])
            self.count += free
        return max(free, 0)

    def _put(self, batch: dict[str, Tensor], which: list[int], places: list[int]) -> None:
        for i, place in zip(which, places, strict=True):
            for key, tensor in batch.items():
                self.data[key][place] = tensor[i]
