"""A stream: training examples in the order of their tasks, each given once a pass, and no way back.

A workload whose block has `stream` is one. Its tasks are of equal length, or have the numbers of
steps in `stream.lengths`. Everything here is a function of the block's numbers.
"""

from types import SimpleNamespace
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor


def visits(groups: "list[Tensor]", config: SimpleNamespace, seed: int) -> "Tensor":
    """Order of a stream whose task i is `groups[i]` (example numbers): seeded passes, one by one.

    Raises:
        UserError: the steps of a task ask for more passes than `stream.passes`.
    """
    import torch

    tasks = config.stream.tasks
    lengths = getattr(config.stream, "lengths", [config.horizon // tasks] * tasks)
    order = []
    for i, group in enumerate(groups):
        wanted = lengths[i] * config.batch
        passes = -(-wanted // len(group))
        if passes > config.stream.passes:
            raise UserError(
                f"task {i} has {len(group)} examples: {wanted} would be {passes} passes",
                f"the stream has {config.stream.passes} passes",
                "a smaller horizon or batch",
            )
        generator = torch.Generator().manual_seed(derive(seed, "task", i))
        parts = [group[torch.randperm(len(group), generator=generator)] for _ in range(passes)]
        order.append(torch.cat(parts)[:wanted])
    return torch.cat(order)
