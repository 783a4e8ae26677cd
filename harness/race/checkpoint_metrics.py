"""What checkpoints show of the scalars that a runner trains, whatever it reports.

A checkpoint must hold what training goes on from: the model as it trains, adapters included, and
the method's state. So its tensors bound from below what is trained, also where merged weights hide
it. A runner that leaves something out of its checkpoints does not continue to the same weights.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MODEL, STATE = "tensors.", "meta.submission."
# Scalars of state that a method may keep for each scalar that it trains.
STATE_SHARE = 8
# Bytes of a header that are read.
LONGEST_HEADER = 1 << 26


def state_bytes(path: Path) -> int:
    """Return the bytes of the method's floating-point state in a checkpoint, from its header.

    Raises:
        ValueError: it does not have the header of a safetensors file.
    """
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > LONGEST_HEADER:
            raise ValueError(f"the checkpoint's header has {size:,} bytes")
        header = json.loads(file.read(size))
    rows = [row for name, row in header.items() if name.startswith(STATE)]
    sizes = [end - start for start, end in (row["data_offsets"] for row in rows if _floats(row))]
    return sum(sizes)


def _floats(row: dict) -> bool:
    return row["dtype"][0] == "F" or row["dtype"] == "BF16"


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
        floating = [t for t in state if t.is_floating_point()]
        self.state = sum(t.numel() for t in floating)
        self.state_bytes = sum(t.numel() * t.element_size() for t in floating)
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
