"""Count the bits that store a matrix, its description included: the cheapest of a closed list.

Every format is found in the numbers themselves; nothing is declared. A matrix has one format, and
one width of its codes. g is the number of consecutive inputs that share a scale: 16, 32, 64, 128 or
a whole row. Costs are bits a weight of a matrix of `out` rows and `in` columns.

    float      32, or 16 if every weight is a float16 or a bfloat16
    grid       b + 32/g: uniform steps; a step and an offset of 16 bits for each group
    ternary    log2 3 + 16/in: -a, 0, a, with one a for each row
    powers     b + 16/in: 0 and ±a·2^-k, with one a for each row
    e4m3, e5m2, e2m1   8, 8 or 4, + 16/g for a scale; + 8/g if every scale is a power of two
    block      b + 8/g, g 16 or 32: whole numbers of b bits times a power of two for each group
    codebook   b + f·v/(out·in): v values in the matrix, of f bits each (see float); also b + f·v/in
               with v for each row, and b + 16/g + 16·v/(out·in) of weights over the largest of
               their group (NF4); b = log2 v, rounded up
    vectors    b/n + f·n·v/(out·in): n = 2, 4 or 8 consecutive inputs are one of v tuples
    sparse     1 for a mask (log2(6)/4 if of any four at least two are zero), + (1 - zeros) times
               the bits of the others: float, grid of a row, codebook

Scales and offsets count 16 bits, whatever their own precision is.

A workload's map may be a sum of parts (workloads/models/parts.py). What is added counts beside the
matrix: two factors of the rank that they use, f bits an entry; and each entry of the sparse rest
that is not zero, f bits and its place in the row, with where each row begins.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from harness.race.weight_metrics import row_bits, two_four

GROUPS = (16, 32, 64, 128)
SCALE, WHOLE = 16, 32  # bits of a scale, of a float32
EXPONENT = 8  # bits of a power of two
NEAR = 1e-6  # relative: what float32 leaves of a product of code and scale
MOST = 256  # entries of a codebook of scaled weights that are looked for
# Bits of mantissa, the least exponent of a normal number, the largest value.
FLOATS = {"e4m3": (3, -6, 448.0), "e5m2": (2, -14, 57344.0), "e2m1": (1, 0, 6.0)}
WIDTHS = {"e4m3": 8, "e5m2": 8, "e2m1": 4}
# Rows that are looked at before the others: most matrices are in no format.
SAMPLE = 4


def stored_bits(
    weights: list[Tensor], parts: Sequence[tuple[Tensor, Tensor, Tensor]] = ()
) -> float:
    """Return the mean bits a weight of matrices [out, in]; each has its cheapest format.

    Args:
        parts: what is added to the matrices, if they are sums: left [out, r], right [r, in] and
            rest [out, in] of each.
    """
    total = sum(min(formats(w).values()) * w.numel() for w in weights)
    total += sum(of_parts(*each) for each in parts)
    return total / sum(w.numel() for w in weights)


def of_parts(left: Tensor, right: Tensor, rest: Tensor) -> float:
    """Return the bits of two factors [out, r] and [r, in], and of a sparse matrix [out, in]."""
    if not all(bool(torch.isfinite(t).all()) for t in (left, right, rest)):
        return float(WHOLE * (left.numel() + right.numel() + rest.numel()))
    used = (left != 0).any(0) & (right != 0).any(1)
    factors = torch.cat([left[:, used].flatten(), right[used].flatten()]).float().cpu()
    some = rest[rest != 0].float().cpu()
    bits = _float(factors) * len(factors)
    if len(some):
        place, begin = _width(rest.shape[1]), _width(len(some) + 1)
        bits += (_float(some) + place) * len(some) + begin * len(rest)
    return float(bits)


def formats(w: Tensor) -> dict[str, float]:
    """Return the bits a weight of every format that stores this matrix exactly."""
    if not bool(torch.isfinite(w).all()):
        return {"float": float(WHOLE)}
    found: dict[str, float] = {}
    for name, bits in _all(w.detach().float().cpu()):
        found[name] = min(bits, found.get(name, math.inf))
    return found


def _all(w: Tensor) -> Iterator[tuple[str, float]]:
    """Yield every format that fits, with its bits."""
    yield "float", _float(w)
    for g in dict.fromkeys([*(g for g in GROUPS if w.shape[1] % g == 0), w.shape[1]]):
        grouped = w.reshape(-1, g)
        if (bits := _fitting(grouped, _grid)) is not None:
            yield "grid", bits + 2 * SCALE / g
        for name in FLOATS:
            if (
                scale := _fitting(grouped, lambda rows, name=name: _scaled(rows, name))
            ) is not None:
                yield name, WIDTHS[name] + scale / g
        if (count := _scaled_values(grouped)) is not None:
            yield "codebook", _width(count) + SCALE / g + SCALE * count / w.numel()
        if g in (16, 32):
            yield "block", _block(grouped) + EXPONENT / g
    if (bits := _fitting(w, _powers)) is not None:
        name = "ternary" if bits == math.log2(3) else "powers"
        yield name, bits + SCALE / w.shape[1]
    yield from _codebooks(w)
    yield from _sparse(w)


def _fitting(rows: Tensor, measure: Callable[[Tensor], float | None]) -> float | None:
    """Return the measure of all rows, or None if some of the first rows already have none."""
    return None if measure(rows[:SAMPLE]) is None else measure(rows)


def _width(count: int) -> int:
    """Return the bits of a code for this many values."""
    return max(1, math.ceil(math.log2(count))) if count > 1 else 0


def _float(w: Tensor) -> float:
    halves = (w.to(kind).float() for kind in (torch.float16, torch.bfloat16))
    return WHOLE / 2 if any(torch.equal(half, w) for half in halves) else WHOLE


def _grid(rows: Tensor) -> float | None:
    """Return the bits of the finest uniform grid among the rows, or None."""
    bits = float(row_bits(rows).max())
    return None if bits == WHOLE else bits


def _powers(rows: Tensor) -> float | None:
    """Return the bits of a code for 0 and ±a·2^-k, or None; log2 3 if k is 0 everywhere."""
    largest = rows.abs().amax(1, keepdim=True)
    ratio = rows.abs() / largest.clamp(min=torch.finfo(rows.dtype).tiny)
    some = ratio > 0
    k = -torch.log2(torch.where(some, ratio, 1.0)).round()
    if not bool(((ratio - torch.exp2(-k)).abs() <= NEAR * ratio)[some].all()):
        return None
    steps = int(k.max()) + 1
    return math.log2(3) if steps == 1 else float(_width(2 * steps + 1))


def _table(name: str) -> Tensor:
    """Return the non-negative values of a small float format, in order."""
    mantissa, least, largest = FLOATS[name]
    steps = torch.arange(2**mantissa, dtype=torch.float64)
    low = steps * 2.0 ** (least - mantissa)
    top = math.frexp(largest)[1] - 1
    normal = [(1 + steps / 2**mantissa) * 2.0**e for e in range(least, top + 1)]
    values = torch.cat([low, *normal])
    return values[values <= largest]


def _scaled(rows: Tensor, name: str) -> float | None:
    """Return the bits of a scale if every row is a scale times values of the format, or None.

    The largest of a row is then a value of the format. It may be taken for one of the last power
    of two, since a larger scale only turns subnormal numbers into normal ones.
    """
    table = _table(name)
    x = rows.double()
    largest = x.abs().amax(1, keepdim=True)
    open_rows, powers = torch.ones(len(x), dtype=torch.bool), True
    for top in table[table > table[-1] / 2]:
        value = x.abs() / largest.clamp(min=torch.finfo(torch.float64).tiny) * top
        place = torch.bucketize(value, (table[1:] + table[:-1]) / 2)
        fits = ((value - table[place]).abs() <= NEAR * value).all(1) & open_rows
        open_rows &= ~fits
        mantissa = torch.frexp(largest[fits] / top).mantissa
        powers &= bool(((mantissa == 0.5) | (mantissa == 0)).all())
    if bool(open_rows.any()):
        return None
    return EXPONENT if powers else SCALE


def _block(rows: Tensor) -> float:
    """Return the bits of the whole numbers, sign included, of rows with a shared power of two."""
    mantissa, exponent = torch.frexp(rows.double())
    whole = (mantissa.abs() * 2**24).long()  # exact: float32 has 24 bits
    some = whole > 0
    lowest = torch.where(some, whole & -whole, 1).double().log2().long()
    last = torch.where(some, exponent - 24 + lowest, 10_000).amin(1)
    first = torch.where(some, exponent, -10_000).amax(1)
    used = some.any(1)
    return 1.0 + int((first - last)[used].max()) if bool(used.any()) else 0.0


def _scaled_values(rows: Tensor) -> int | None:
    """Return the number of values over the largest of their row, or None if it is above MOST.

    Values that are apart by no more than NEAR of themselves are one; each begins anew from its
    smallest. A distance by the largest would make one value of all that are beside a large weight.
    """
    largest = rows.double().abs().amax(1, keepdim=True)
    scaled = rows.double() / largest.clamp(min=torch.finfo(torch.float64).tiny)
    if len(scaled[:SAMPLE].unique()) > 2 * MOST:
        return None
    values, count = scaled.unique(), 0
    while len(values):
        count += 1
        if count > MOST:
            return None
        near = values[0] + NEAR * values[0].abs()
        values = values[torch.searchsorted(values, near, right=True) :]
    return count


def _codebooks(w: Tensor) -> Iterator[tuple[str, float]]:
    """Yield the codebooks of values and of tuples as they are."""
    entry, count = _float(w), len(w.unique())
    yield "codebook", _width(count) + entry * count / w.numel()
    most = max(len(row.unique()) for row in w)
    yield "codebook", _width(most) + entry * most / w.shape[1]
    for n in (2, 4, 8):
        if w.shape[1] % n == 0:
            count = len(w.reshape(-1, n).unique(dim=0))
            yield "vectors", _width(count) / n + entry * n * count / w.numel()


def _sparse(w: Tensor) -> Iterator[tuple[str, float]]:
    """Yield a mask and the formats of what is not zero."""
    some = w != 0
    share = float(some.float().mean())
    if share in (0.0, 1.0):
        return
    patterned = w.shape[1] % 4 == 0 and two_four([w]) == 1.0
    mask = math.log2(6) / 4 if patterned else 1.0
    yield "sparse", mask + share * _float(w)
    # A zero is replaced by a value that its row has.
    first = torch.gather(w, 1, some.int().argmax(1, keepdim=True))
    if (bits := _fitting(torch.where(some, w, first), _grid)) is not None:
        yield "sparse", mask + share * bits + 2 * SCALE / w.shape[1]
    count = len(w[some].unique())
    yield "sparse", mask + share * _width(count) + _float(w) * count / w.numel()
