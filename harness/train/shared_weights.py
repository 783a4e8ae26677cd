"""Hand over weights through shared memory: raw bytes in a layout that the referee checks first."""

import fcntl
import hashlib
import math
import mmap
import os
import tempfile
from typing import TYPE_CHECKING

# torch is imported where it is used: a referee starts its runner before it imports torch.
if TYPE_CHECKING:
    from torch import Tensor

ALIGN = 64  # bytes
DTYPES = (
    "float64", "float32", "bfloat16", "float16", "int64", "int32", "int16", "uint8", "bool",
)  # fmt: skip


def layout(tensors: "dict[str, Tensor]") -> list[list]:
    """Return [name, dtype, shape] of each tensor, in order."""
    return [
        [name, str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in tensors.items()
    ]


def difference(theirs: list, ours: list) -> str | None:
    """Return the first difference between two layouts in words, or None."""
    mine, yours = ({row[0]: row[1:] for row in part} for part in (ours, theirs))
    for name in mine.keys() | yours.keys():
        if name not in yours:
            return f"tensor {name} is missing"
        if name not in mine:
            return f"tensor {name} does not belong to the workload's model"
        if mine[name] != yours[name]:
            return f"tensor {name} is {yours[name]}, the workload's is {mine[name]}"
    return None


def digest(tensors: "dict[str, Tensor]") -> str:
    """Return the SHA-256 of the tensors' names and bytes."""
    import torch

    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + b"\0")
        total.update(tensors[name].cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def shared_file() -> int:
    """Return a descriptor of shared memory without a name, which the runner inherits."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        handle, path = tempfile.mkstemp()
        os.unlink(path)
        fd = handle
    os.set_inheritable(fd, True)
    return fd


def keep_size(fd: int) -> None:
    """Forbid every process to change the size of the shared memory.

    Reading a part that was cut off would kill the reader. An added part would not count in the
    memory limit.
    """
    if hasattr(fcntl, "F_ADD_SEALS"):
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)


class SharedWeights:
    """Sets of tensors of one layout in the shared memory behind `fd`, one set in each slot."""

    def __init__(self, fd: int, rows: list[list], slots: int = 1):
        import torch

        self._slots, offset = [], 0
        for name, kind, shape in rows:
            assert kind in DTYPES, kind
            dtype, count = getattr(torch, kind), math.prod(shape)
            self._slots.append((name, dtype, shape, count, offset))
            offset += -(-count * dtype.itemsize // ALIGN) * ALIGN
        self._size = offset
        if os.fstat(fd).st_size < offset * slots:
            os.ftruncate(fd, offset * slots)
        self._map = mmap.mmap(fd, offset * slots) if offset else None

    @property
    def bytes(self) -> int:
        """Return the bytes of one set of weights."""
        return self._size

    def tensors(self, number: int = 0) -> "dict[str, Tensor]":
        """Return the tensors of a slot. They are the shared memory itself, not copies."""
        import torch

        first = number * self._size
        return {
            name: (
                torch.frombuffer(self._map, dtype=dtype, count=count, offset=first + offset).view(
                    shape
                )
                if count
                else torch.empty(shape, dtype=dtype)
            )
            for name, dtype, shape, count, offset in self._slots
        }

    def put(self, tensors: "dict[str, Tensor]", number: int = 0) -> None:
        """Copy tensors into a slot."""
        for name, slot in self.tensors(number).items():
            slot.copy_(tensors[name])
