"""What the referee measures on handed-over weights themselves: zeros, patterns, bits, change.

    sparsity         share of exact zeros in the hidden matrices
    two_four         share of groups of four consecutive inputs with two or more zeros, in those
    bits             bits per weight of the hidden matrices, rows on uniform grids, no grids counted
    pattern_N_M      share of groups of M consecutive inputs, at most N of them not zero
    block_A_B        share of tiles of A outputs and B inputs that are all zero
    stored_bits      bits per weight of the hidden matrices, formats counted (stored_bits.py)
    delta            bytes that turn the pretrained weights outside the head into these
    changed          weights outside the head that differ from the pretrained ones, over all
    trainable        scalars trained, the head's not counted, over all of the dense model's
    training_memory  bytes of a step, analytic (harness/train/training_memory.py)

`trainable` is at least what is measured. Weights that are handed over as they are trained show
it: it is at least `changed`. Merged adapters hide it: then it is at least the smaller of two
counts, the scalars that describe the change (`described`) and those that moved in the checkpoints
(checkpoint_metrics.py). Neither alone would do: the first is large for methods that make a change
of full rank from few scalars, the second counts what is trained and not needed. `training_memory`
is at least the bytes of the weights, of a gradient of each trained scalar, and of the state in the
checkpoint.
"""

import re

import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.race.checkpoint_metrics import Held

NEAR = 1e-3  # of a grid step: what float32 may be off a grid of 256 levels
ROUNDING = 2.0**-24  # of float32
LEVELS = 255  # steps of the finest grid looked for
NUMBER, PLACE = 4, 4  # bytes of a scalar, and of its place in a tensor
# Metrics with two whole numbers in their names.
PATTERN = re.compile(r"(pattern|block)_([1-9]\d*)_([1-9]\d*)")


def of_change(
    tensors: dict[str, Tensor],
    start: dict[str, Tensor],
    head: set[str],
    params: dict[str, nn.Parameter],
    declared: tuple[int, bool, int],
    held: Held,
) -> dict[str, float]:
    """Return `changed`, `trainable` and `training_memory` of handed-over weights.

    Args:
        start: the pretrained weights.
        head: names of the head's parameters.
        params: the parameters of the workload's model, by name.
        declared: the runner's counts: trained scalars, whether they are merged, bytes of a step.
        held: what the trial's checkpoints show.
    """
    count, merged, memory = declared
    total = sum(p.numel() for p in params.values())
    weights = sum(p.numel() * p.element_size() for p in params.values())
    sizes = {name: p.numel() for name, p in params.items() if name in head}
    if merged and (moved := held.trained(sizes)) > count:
        count = max(count, min(moved, described(tensors, start, head)))
    share = changed(tensors, start, head, total)
    gradients = count * (weights // total)
    return {
        "changed": share,
        "trainable": max(count / total, 0.0 if merged else share),
        "training_memory": max(memory, weights + gradients + held.state_bytes),
    }


def of_matrices(weights: list[Tensor]) -> dict[str, float]:
    """Return `sparsity`, `two_four` and `bits` of the hidden matrices."""
    return {"sparsity": sparsity(weights), "two_four": two_four(weights), "bits": bits(weights)}


def sparsity(weights: list[Tensor]) -> float:
    """Return the share of exact zeros."""
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def two_four(weights: list[Tensor]) -> float:
    """Return the share of groups of four inputs of a row with two or more zeros.

    A rest of fewer than four inputs does not count.
    """
    good = total = 0
    for w in weights:
        groups = (w == 0)[:, : w.shape[1] // 4 * 4].reshape(-1, 4).sum(1)
        good, total = good + int((groups >= 2).sum()), total + len(groups)
    return good / total


def named_pattern(name: str, weights: list[Tensor]) -> float | None:
    """Return the value of pattern_N_M or block_A_B; None if the name is another metric's.

    Raises:
        UserError: N is not below M, or no matrix has a whole group or tile.
    """
    match = PATTERN.fullmatch(name)
    if not match:
        return None
    first, second = int(match[2]), int(match[3])
    if match[1] == "pattern" and first >= second:
        raise UserError(
            f"the goal's {name} keeps {first} of {second}", "pattern_N_M with N below M"
        )
    measure = pattern if match[1] == "pattern" else zero_tiles
    value = measure(weights, first, second)
    if value is None:
        raise UserError(f"the goal names {name}, and no hidden matrix is that large")
    return value


def pattern(weights: list[Tensor], kept: int, of: int) -> float | None:
    """Return the share of groups of `of` inputs of a row with at most `kept` other than zero.

    A rest of fewer inputs does not count; None if there is no whole group.
    """
    good = total = 0
    for w in weights:
        groups = (w != 0)[:, : w.shape[1] // of * of].reshape(-1, of).sum(1)
        good, total = good + int((groups <= kept).sum()), total + len(groups)
    return good / total if total else None


def zero_tiles(weights: list[Tensor], rows: int, columns: int) -> float | None:
    """Return the share of tiles [rows, columns] without a value other than zero.

    A rest of fewer rows or columns does not count; None if there is no whole tile.
    """
    good = total = 0
    for w in weights:
        down, across = w.shape[0] // rows, w.shape[1] // columns
        whole = (w != 0)[: down * rows, : across * columns]
        tiles = whole.reshape(down, rows, across, columns).any(3).any(1)
        good, total = good + int((~tiles).sum()), total + tiles.numel()
    return good / total if total else None


def bits(weights: list[Tensor]) -> float:
    """Return the mean bits per weight if a row is stored as whole numbers, a step and an offset.

    A row's grid is the coarsest whose points are all its values; 32 bits where 256 levels are too
    few. Two values that differ are two points: else a large weight, which no input reaches, would
    make one point of all the others.
    """
    total = sum(float(row_bits(w).sum()) * w.shape[1] for w in weights)
    return total / sum(w.numel() for w in weights)


def row_bits(w: Tensor) -> Tensor:
    """Return the bits of a weight in each row of one matrix, [rows]."""
    low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
    place = (w - low) / (high - low).clamp(
        min=torch.finfo(w.dtype).tiny
    )  # in [0, 1] of the row's range
    steps = torch.arange(1, LEVELS + 1, device=w.device)
    some = place.topk(min(8, w.shape[1]), dim=1).values  # most rows are off most grids here already
    fits = _on_grid(some[:, None], steps[:, None]) & (high > low)  # [rows, LEVELS]
    values = _different(w)
    fits &= values[:, None] <= steps + 1
    each = torch.where(high > low, 32.0, 0.0).flatten()
    left = fits.any(1).nonzero().flatten()
    while len(left):
        first = fits[left].int().argmax(1)
        good = _on_grid(place[left], steps[first, None])
        good &= _different((place[left] * steps[first, None]).round()) == values[left]
        each[left[good]] = torch.log2(steps[first[good]] + 1).ceil()
        fits[left[good]], fits[left, first] = False, False
        left = left[fits[left].any(1)]
    return each


def _different(values: Tensor) -> Tensor:
    """Return how many different values each row has, [rows]."""
    return 1 + (values.sort(1).values.diff(dim=1) != 0).sum(1)


def _on_grid(place: Tensor, steps: Tensor) -> Tensor:
    at = place * steps
    return ((at - at.round()).abs() < NEAR).all(-1)


def described(tensors: dict[str, Tensor], start: dict[str, Tensor], head: set[str]) -> int:
    """Return the scalars that describe the change of the weights outside the head.

    A tensor's change is described by its changed entries, or by two factors of its rank.
    """
    changes = _changes(tensors, start, head)
    return sum(
        entries if factors is None else min(entries, factors) for entries, factors in changes
    )


def delta(tensors: dict[str, Tensor], start: dict[str, Tensor], head: set[str]) -> float:
    """Return the bytes that turn the pretrained weights outside the head into these.

    The least for each tensor: all of it; its changed entries, each with its place; two factors.
    """
    sizes = [start[name].numel() for name in start if name not in head]
    total = 0
    for size, (entries, factors) in zip(sizes, _changes(tensors, start, head), strict=True):
        least = min(NUMBER * size, (NUMBER + PLACE) * entries)
        total += least if factors is None else min(least, NUMBER * factors)
    return float(total)


def _changes(
    tensors: dict[str, Tensor], start: dict[str, Tensor], head: set[str]
) -> list[tuple[int, int | None]]:
    """Return for each tensor outside the head its changed entries, and the scalars of two factors.

    The latter are None where the tensor is no matrix, or not finite.
    """
    result: list[tuple[int, int | None]] = []
    for name in start:
        if name in head:
            continue
        change = tensors[name].double() - start[name].to(tensors[name].device).double()
        entries, factors = int((change != 0).sum()), None
        if entries and change.ndim == 2 and bool(change.isfinite().all()):
            # What the rounding of merged weights leaves lies below a third of this.
            noise = ROUNDING * float(start[name].abs().max()) * max(change.shape) ** 0.5
            factors = int((torch.linalg.svdvals(change) > noise).sum()) * sum(change.shape)
        result.append((entries, factors))
    return result


def changed(
    tensors: dict[str, Tensor], start: dict[str, Tensor], head: set[str], total: int
) -> float:
    """Return the weights outside the head that are not what they were, over `total`."""
    return sum(int((tensors[n] != start[n]).sum()) for n in start if n not in head) / total
