"""The processes of one trial, seen from one of them: its number, and what they do together.

torch.distributed is imported in functions: a trial in one process never imports it.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# The referee may take any time between two messages, and it notices itself when a process ends.
PATIENCE = timedelta(days=1)
# The device that processes of one machine talk through.
LOOPBACK = "lo"


class Group:
    """One process ("rank") of several that train one model.

    Attributes:
        rank: its number, from 0; rank 0 talks to the referee.
        size: the number of processes.
        local: its number on its machine; without it, all are on one machine.
    """

    def __init__(self, rank: int, size: int, local: int | None = None):
        self.rank, self.size = rank, size
        self.local = rank if local is None else local

    @property
    def leads(self) -> bool:
        """Return True for the rank that talks to the referee."""
        return self.rank == 0

    def device(self, device: str) -> str:
        """Return the device of this rank: each has a GPU of its own, all share the CPU."""
        return f"cuda:{self.local}" if device.startswith("cuda") else device

    def join(self, place: Path | str | dict, device: str) -> None:
        """Connect to the other ranks, through torch.distributed.

        Args:
            place: a file that all ranks of this attempt can write, or the address, port and key
                of a store that ranks of several machines reach.
            device: where the passes run: "cpu" or "cuda".
        """
        import torch
        import torch.distributed as dist

        on_gpu = device.startswith("cuda")
        if on_gpu:
            torch.cuda.set_device(self.local)
            # NCCL would connect at the first use of each algorithm, when sockets may be refused.
            os.environ.setdefault("NCCL_RUNTIME_CONNECT", "0")
        if isinstance(place, dict):
            client = dist.TCPStore(place["address"], place["port"], is_master=False)
            store = dist.PrefixStore(place["key"], client)
        else:
            os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK
            store = dist.FileStore(str(place), self.size)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=store,
            rank=self.rank,
            world_size=self.size,
            timeout=PATIENCE,
            device_id=torch.device("cuda", self.local) if on_gpu else None,
        )
        # All connections are made here: later ones may be refused.
        dist.all_reduce(torch.zeros(1, device="cuda" if on_gpu else "cpu"))
        dist.barrier()

    def share(self, count: int) -> slice:
        """Return which of `count` examples are this rank's; the first ranks have one more."""
        least, more = divmod(count, self.size)
        first = self.rank * least + min(self.rank, more)
        return slice(first, first + least + (self.rank < more))

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value, on every rank."""
        import torch
        import torch.distributed as dist

        held = [value]
        dist.broadcast_object_list(held, 0, device=torch.device("cpu"))
        return held[0]

    def agreed(self, value: int) -> int:
        """Return rank 0's whole number, on every rank."""
        import torch
        import torch.distributed as dist

        number = torch.tensor([value])
        dist.broadcast(number, 0)
        return int(number)

    def gathered(self, value: Any) -> list:
        """Return the values of all ranks, in their order, on every rank."""
        import torch.distributed as dist

        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def total(self, tensors: Sequence["Tensor"]) -> list["Tensor"]:
        """Return the sums of the ranks' tensors, on every rank."""
        import torch
        import torch.distributed as dist

        whole = torch.cat([t.detach().flatten() for t in tensors])
        dist.all_reduce(whole)
        parts = whole.split([t.numel() for t in tensors])
        return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]

    def joined(self, part: "Tensor", count: int, rows: int) -> "Tensor":
        """Return the ranks' parts, one below the other, on every rank.

        Args:
            part: rows of this rank's share of `count` examples.
            rows: rows of an example.
        """
        import torch
        import torch.distributed as dist

        sizes = [rows * (s.stop - s.start) for s in map(self._of(count), range(self.size))]
        # All parts need the same shape.
        padded = part.new_zeros((max(sizes), *part.shape[1:]))
        padded[: len(part)] = part.detach()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([each[:size] for each, size in zip(parts, sizes, strict=True)])

    def _of(self, count: int):
        return lambda rank: Group(rank, self.size).share(count)
