"""Learning-rate factors: pure functions of progress, the fraction of the horizon that is done.

Every function returns a factor in [0, 1]. With `warmup` 0 every one of them is 1 at progress 0,
which is how `harness.optim` switches a method's own schedule off.
"""

import math


def warmup_constant(progress: float, warmup: float) -> float:
    """Rise linearly from 0 during the fraction `warmup`, then stay at 1."""
    return progress / warmup if progress < warmup else 1.0


def warmup_linear(progress: float, warmup: float, floor: float = 0.0) -> float:
    """Rise linearly during `warmup`, then fall linearly to `floor` (arXiv 2310.07831)."""
    if progress < warmup:
        return progress / warmup
    return floor + (1.0 - floor) * (1.0 - _after(progress, warmup))


def warmup_cosine(progress: float, warmup: float, floor: float = 0.0) -> float:
    """Rise linearly during `warmup`, then fall as half a cosine to `floor` (arXiv 1608.03983)."""
    if progress < warmup:
        return progress / warmup
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * _after(progress, warmup)))


def warmup_stable_decay(progress: float, warmup: float, decay: float, floor: float = 0.0) -> float:
    """Rise during `warmup`, stay at 1, fall linearly to `floor` over the last fraction `decay`."""
    if progress < warmup:
        return progress / warmup
    return floor + (1.0 - floor) * min(1.0, (1.0 - progress) / decay)


def _after(progress: float, warmup: float) -> float:
    """Return the fraction done of what follows the warm-up."""
    return (progress - warmup) / (1.0 - warmup) if warmup < 1.0 else 1.0
