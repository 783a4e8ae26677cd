"""One integer seeds everything: named streams by hashing, never one generator in call order."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names) -> int:
    """Return a 63-bit seed for the stream called `names` of trial seed `seed`."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_cpu(seed: int, *names) -> None:
    """Seed torch's generator on the CPU by the stream called `names`.

    `torch.manual_seed` seeds those of every other device too. Without one it keeps each call in a
    list, with a formatted stack, which takes fifty times as long.
    """
    import torch

    torch.default_generator.manual_seed(derive(seed, *names))


def forked(device: "torch.device"):
    """Return a context in which draws on the CPU and on one device change no generator.

    Without a device, `torch.random.fork_rng` would reserve memory on every GPU of the machine.
    """
    import torch

    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
