"""The referee's key: what a submission must not be able to draw by itself depends on it.

Without a key of one's own, the public one holds: generated problems are those of the workloads'
fixed seeds, as on the leaderboard, and whoever reads the workload's file can draw them too. With
HARNESS_KEY in the referee's environment the same workloads draw other instances. The runner never
gets the key: its environment is made anew, and records have only the key's fingerprint.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from harness.seeds import derive
from harness.system.hashing import digest

VARIABLE = "HARNESS_KEY"


def fingerprint() -> str:
    """Return a hash of the key of one's own; "" for the public key."""
    key = os.environ.get(VARIABLE, "")
    return digest("fingerprint", key)[:16] if key else ""


def seed_of(seed: int) -> int:
    """Return the seed that a trial's data are drawn from; with the public key, the trial's own."""
    key = os.environ.get(VARIABLE, "")
    return derive(seed, digest("data", key)) if key else seed


def hidden_seed(seed: int, name: str) -> int:
    """Return a seed that no submission can know: of the key, or random under the public key."""
    key = os.environ.get(VARIABLE, "")
    return derive(seed, name, digest("hidden", key)) if key else secrets.randbits(63)


@contextmanager
def own_key() -> Iterator[None]:
    """Within the block, this process has a new key of its own, which it writes nowhere."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = secrets.token_hex(16)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


@contextmanager
def keyed_generators() -> Iterator[None]:
    """Within the block, a seed given to a torch.Generator is one of the key's.

    Workloads whose `data` has no parameter `seed` draw from fixed seeds, which are public. With the
    public key nothing changes.
    """
    key = os.environ.get(VARIABLE, "")
    if not key:
        yield
        return
    import torch

    plain = torch.Generator

    class KeyedGenerator(plain):
        def manual_seed(self, seed: int) -> torch.Generator:
            """Seed the generator with a number that depends on the key."""
            return super().manual_seed(derive(seed, digest("generator", key)))

    torch.Generator = KeyedGenerator
    try:
        yield
    finally:
        torch.Generator = plain
