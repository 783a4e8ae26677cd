"""Weights handed over through shared memory: raw bytes in an agreed layout, checked before use."""

import fcntl
import hashlib
import math
import mmap
import os
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where it is used: a referee starts its runner before it imports torch
    from torch import Tensor

ALIGN = 64
DTYPES = (
    "float64", "float32", "bfloat16", "float16", "int64", "int32", "int16", "uint8", "bool",
)  # fmt: skip


def layout(tensors: "dict[str, Tensor]") -> list[list]:
    """[name, dtype, shape] of each tensor, in order."""
    return [
        [name, str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in tensors.items()
    ]


def difference(theirs: list, ours: list) -> str | None:
    """The first disagreement of two layouts in words, or None."""
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
    """sha256 over names and bytes: equal for equal bits, whatever trained them."""
    import torch

    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + b"\0")
        total.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def shared_file() -> int:
    """A file descriptor of nameless shared memory, inheritable by the runner."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        handle, path = tempfile.mkstemp()
        os.unlink(path)
        fd = handle
    os.set_inheritable(fd, True)
    return fd


def keep_size(fd: int) -> None:
    """Let nobody change the size of shared memory any more.

    Reading what was cut off would kill the reader; what is added would escape the memory limit.
    """
    if hasattr(fcntl, "F_ADD_SEALS"):
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)


class SharedWeights:
    """Tensors of one layout, `slots` times over, in the shared file behind `fd`."""

    def __init__(self, fd: int, rows: list[list], slots: int = 1):
        import torch

        self._slots, at = [], 0
        for name, kind, shape in rows:
            assert kind in DTYPES, kind
            dtype, count = getattr(torch, kind), math.prod(shape)
            self._slots.append((name, dtype, shape, count, at))
            at += -(-count * dtype.itemsize // ALIGN) * ALIGN
        self._size = at
        if os.fstat(fd).st_size < at * slots:
            os.ftruncate(fd, at * slots)
        self._map = mmap.mmap(fd, at * slots) if at else None

    @property
    def bytes(self) -> int:
        """Size of one set of weights."""
        return self._size

    def tensors(self, number: int = 0) -> "dict[str, Tensor]":
        """The shared tensors of a slot themselves (not copies)."""
        import torch

        first = number * self._size
        return {
            name: (
                torch.frombuffer(self._map, dtype=dtype, count=count, offset=first + at).view(shape)
                if count
                else torch.empty(shape, dtype=dtype)
            )
            for name, dtype, shape, count, at in self._slots
        }

    def put(self, tensors: "dict[str, Tensor]", number: int = 0) -> None:
        for name, slot in self.tensors(number).items():
            slot.copy_(tensors[name])
