"""What the referee measures on handed-over weights themselves: sparsity, 2:4 pattern, bits, change.

    sparsity         share of exact zeros in the hidden matrices
    two_four         share of groups of four consecutive inputs with two or more zeros, in those
    bits             bits per weight of the hidden matrices, rows on uniform grids, no grids counted
    changed          weights outside the head that differ from the pretrained ones, over all
    trainable        scalars trained, the head's not counted, over all of the dense model's
    training_memory  bytes of a step, analytic (harness/train/training_memory.py)

`trainable` is the runner's count of parameters, largest so far: weights that are handed over as
they are trained prove it, since it is then at least `changed`; of merged adapters it is taken on
trust, as `training_memory` is, the largest found at up to six moments of a trial.
"""

import torch
from torch import Tensor

NEAR = 1e-3  # of a grid step: what float32 may be off a grid of 256 levels
LEVELS = 255  # steps of the finest grid looked for


def sparsity(weights: list[Tensor]) -> float:
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def two_four(weights: list[Tensor]) -> float:
    """Groups run along the inputs of a row; a rest of under four does not count."""
    good = total = 0
    for w in weights:
        groups = (w == 0)[:, : w.shape[1] // 4 * 4].reshape(-1, 4).sum(1)
        good, total = good + int((groups >= 2).sum()), total + len(groups)
    return good / total


def bits(weights: list[Tensor]) -> float:
    """Mean bits per weight when each row is stored as whole numbers times its step plus its offset.

    A row's grid is the coarsest whose points are all its values; 32 bits where 256 levels are too
    few.
    """
    total = sum(float(_row_bits(w).sum()) * w.shape[1] for w in weights)
    return total / sum(w.numel() for w in weights)


def _row_bits(w: Tensor) -> Tensor:
    """Bits of a weight in each row of one matrix, [rows]."""
    low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
    place = (w - low) / (high - low).clamp(
        min=torch.finfo(w.dtype).tiny
    )  # in [0, 1] of the row's range
    steps = torch.arange(1, LEVELS + 1, device=w.device)
    some = place.topk(min(8, w.shape[1]), dim=1).values  # most rows are off most grids here already
    fits = _on_grid(some[:, None], steps[:, None]) & (high > low)  # [rows, LEVELS]
    each = torch.where(high > low, 32.0, 0.0).flatten()
    left = fits.any(1).nonzero().flatten()
    while len(left):
        first = fits[left].int().argmax(1)
        good = _on_grid(place[left], steps[first, None])
        each[left[good]] = torch.log2(steps[first[good]] + 1).ceil()
        fits[left[good]], fits[left, first] = False, False
        left = left[fits[left].any(1)]
    return each


def _on_grid(place: Tensor, steps: Tensor) -> Tensor:
    at = place * steps
    return ((at - at.round()).abs() < NEAR).all(-1)


def changed(
    tensors: dict[str, Tensor], start: dict[str, Tensor], head: set[str], total: int
) -> float:
    """Weights outside the head that are not what they were, over `total`."""
    return sum(int((tensors[n] != start[n]).sum()) for n in start if n not in head) / total
