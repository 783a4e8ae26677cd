"""How much of a runner's CPU time is believed to be the harness's own work, and is not charged.

A runner copies weights, writes checkpoints and times reference steps for the referee. It reports
the seconds that these take. A submission shares its process, so the report may be false: it is
believed up to what the same work takes here, and beyond that from a small reserve of an attempt.
"""

import hashlib
import time
from typing import TYPE_CHECKING

from harness.train.shared_weights import SharedWeights

if TYPE_CHECKING:
    from torch import Tensor

RESERVE = 0.05  # CPU seconds of an attempt, for what a busy machine adds
CALL = 1e-3  # CPU seconds of answering a message
COPIED = 3e8  # bytes a second that copying weights takes at worst
CLONES = 3.0  # times that copying a set of weights may take there, over the same here
WRITTEN = 1.5  # times that making the bytes of a checkpoint may take there, over the same here
SAVED = 4.0  # CPU seconds of a checkpoint's further bytes, over those that hashing them takes here
LOADED = 0.025  # CPU seconds of reading checkpoints when an attempt begins, beside their bytes
MARGIN = 1 << 20  # bytes of generators, orders and counters beside weights and state
# Sets of weights that a method's state may fill before writing it is charged as its own work.
STATE_SETS = 8


class Credit:
    """The seconds that one attempt's runner may call the harness's own.

    Args:
        shared: the weights that are handed over.
    """

    def __init__(self, shared: SharedWeights):
        self._shared, self._reserve = shared, RESERVE
        self._clone = self._content = self._hash = 0.0

    def believed(self, seconds: float, limit: float) -> float:
        """Return the part of reported seconds that is not charged."""
        seconds = min(seconds, limit + self._reserve)
        self._reserve -= max(0.0, seconds - limit)
        return seconds

    def begin(self, hashing: float) -> float:
        """Return the CPU seconds that an attempt's beginning may take.

        Args:
            hashing: CPU seconds that reading and hashing its checkpoints took here.
        """
        return LOADED + SAVED * hashing + copying(self._shared.bytes, 1)

    def handing_over(self, passed: int) -> float:
        """Return the CPU seconds of a hand-over, with so many sets of earlier steps."""
        if passed and not self._clone:
            self._measure()
        return copying(self._shared.bytes, 1) + passed * CLONES * self._clone

    def saving(self, hashing: float) -> float:
        """Return the CPU seconds that writing a checkpoint may take.

        Args:
            hashing: CPU seconds that the referee took to read and hash it.
        """
        if not self._content:
            self._measure()
        return CALL + WRITTEN * self._content + SAVED * max(0.0, hashing - self._hash)

    def expected(self, state_bytes: int) -> int:
        """Return the bytes of a checkpoint that is written at the harness's own cost.

        The runner reports the state's bytes, and a file may have holes that cost it nothing.
        """
        return self._shared.bytes + min(state_bytes, STATE_SETS * self._shared.bytes) + MARGIN

    def _measure(self) -> None:
        """Time the same work in this process: the second of two, because the first is slower."""
        for _ in range(2):
            begun = time.process_time()
            tensors = {name: t.clone() for name, t in self._shared.tensors().items()}
            cloned = time.process_time()
            content = _content(tensors)
            made = time.process_time()
            hashlib.sha256(content).hexdigest()
            self._hash = time.process_time() - made
            self._clone, self._content = cloned - begun, time.process_time() - cloned


def copying(layout_bytes: int, sets: int) -> float:
    """Return the CPU seconds that copying so many sets of weights may take."""
    return CALL + layout_bytes * sets / COPIED


def _content(tensors: "dict[str, Tensor]") -> bytes:
    from safetensors.torch import save

    from harness.train.state_tree import flatten_state

    flat, tree = flatten_state({"tensors": tensors, "meta": {}})
    return save(flat, metadata={"tree": str(tree)})
