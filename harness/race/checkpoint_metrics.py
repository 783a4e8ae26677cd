"""What checkpoints show of the scalars that a runner trains, whatever it reports.

A checkpoint must hold what training goes on from: the model as it trains, adapters included, and
the method's state. So its tensors bound from below what is trained, also where merged weights hide
it. A runner that leaves something out of its checkpoints does not continue to the same weights.
"""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MODEL, STATE = "tensors.", "meta.submission."
# Scalars of state that a method may keep for each scalar that it trains.
STATE_SHARE = 8
# Bytes of a header without state in it: of all, and for each tensor.
NAMES, NAMED = 1 << 15, 1 << 10
# A checkpoint may be so many times as large as the weights that are handed over and the state, as a
# model may have more tensors than these; so many bytes every one may have.
TIMES, LEAST = 8, 1 << 28
# Bytes of weights over those of a mask: it has a byte for each.
MASK = 4
# Bytes of a state that nobody needs to report: those of a few random generators.
GENERATORS = 1 << 14
# Bytes of a header that are read.
LONGEST_HEADER = 1 << 26


def largest(known: int) -> int:
    """Return the bytes that a checkpoint may have, given those of weights and reported state."""
    return max(LEAST, TIMES * known)


def unreported(path: Path, reported: int, weights: int | None) -> int:
    """Return the bytes that a method keeps in a checkpoint beyond those that were reported.

    Args:
        weights: the bytes of the workload's weights, where all that a method keeps counts: then
            tensors beside them and a mask are state too, such as a buffer of the model.

    Raises:
        ValueError: it does not have the header of a safetensors file.
    """
    state, others = kept(path)
    more = max(0, state - reported)
    if weights is not None:
        more += max(0, others - weights - weights // MASK)
    return more if more > GENERATORS else 0


def kept(path: Path) -> tuple[int, int]:
    """Return the bytes of the method's state in a checkpoint, and of the other tensors.

    They are read from its header. What is no tensor is text there; it counts as state beyond what
    names and a few numbers take.

    Raises:
        ValueError: it does not have the header of a safetensors file.
    """
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > LONGEST_HEADER:
            raise ValueError(f"the checkpoint's header has {size:,} bytes")
        try:
            header = json.loads(file.read(size))
        except RecursionError:
            raise ValueError("the checkpoint's header nests too deep") from None
        whole = os.fstat(file.fileno()).st_size
    state, others = max(0, size - NAMES - NAMED * len(header)), 0
    for name, row in header.items():
        if name == "__metadata__":
            continue
        start, end = row["data_offsets"]
        if not (type(start) is type(end) is int and 0 <= start <= end <= whole):
            raise ValueError("a tensor of the checkpoint lies outside of its file")
        if name.startswith(STATE):
            state += end - start
        else:
            others += end - start
    return state, others


@dataclass
class Held:
    """What the checkpoints of one attempt hold.

    Attributes:
        moved: by name, how many scalars of the model differ between the first checkpoint and a
            later one; the most so far.
        state: scalars of the method's state in the newest.
        state_bytes: their bytes.
    """

    moved: dict[str, int] = field(default_factory=dict)
    state: int = 0
    state_bytes: int = 0
    _first: "dict[str, Tensor]" = field(default_factory=dict)

    def take(self, path: Path) -> None:
        """Measure a checkpoint.

        Raises:
            ValueError: it cannot be read.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"the runner's checkpoint cannot be read: {error}") from None
        model = {k.removeprefix(MODEL): t for k, t in tensors.items() if k.startswith(MODEL)}
        state = [t for name, t in tensors.items() if name.startswith(STATE)]
        self.state = sum(t.numel() for t in state if t.is_floating_point())
        self.state_bytes = sum(t.numel() * t.element_size() for t in state)
        self._first = self._first or model
        seen = set()
        for name, tensor in model.items():
            first = self._first.get(name)
            same = first is not None and first.shape == tensor.shape
            count = int((tensor != first).sum()) if same else tensor.numel()
            # A parameter that several modules share is there once for each of them.
            content = tuple(tensor.shape), tensor.contiguous().flatten().view(torch.uint8)
            key = content[0], hash(content[1].numpy().tobytes()) if count else name
            self.moved[name] = 0 if key in seen else max(count, self.moved.get(name, 0))
            seen.add(key)

    def trained(self, head: dict[str, int]) -> int:
        """Return how many scalars outside the head were trained at least.

        Args:
            head: number of scalars of each parameter of the head, by name.
        """
        moved = sum(count for name, count in self.moved.items() if name not in head)
        rest = math.ceil((moved + self.state) / STATE_SHARE) - sum(head.values())
        return max(moved, rest)
