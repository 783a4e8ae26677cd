"""Rounding of what hidden linear maps are called with: the referee's own quantiser.

    δ = max|x|/(2^(b-1) - 1) of a token;  x ← δ·round(x/δ), to the nearest even

A goal that bounds `activation_bits` is evaluated with it (harness/race/evaluator.py). A submission
may train under the same rounding: gradients pass straight through.
"""

import torch
from torch import Tensor, nn

from harness import ops, surgery
from harness.errors import UserError

BITS = range(2, 17)


def rounded(x: Tensor, bits: int, limit: Tensor | None = None) -> Tensor:
    """Return x [..., in] on the grid of each token; the gradient is that of x.

    Args:
        limit: the end of the grid, instead of each token's largest magnitude; what lies beyond is
            clipped, and has no gradient.
    """
    levels = 2 ** (bits - 1) - 1
    if limit is not None:
        x = x.clamp(-limit, limit)
    largest = x.detach().abs().amax(-1, keepdim=True) if limit is None else limit.detach()
    step = (largest / levels).clamp(min=torch.finfo(x.dtype).tiny)
    return ops.straight_through(x, step * (x.detach() / step).round())


def round_inputs(model: nn.Module, bits: int) -> None:
    """Round the inputs of every hidden linear map, from now on.

    Raises:
        UserError: `bits` is not a whole number in 2 to 16, or the model has no hidden linear map.
    """
    if bits not in BITS:
        raise UserError(f"activation_bits of {bits!r}", f"a whole number, {BITS[0]} to {BITS[-1]}")
    found = surgery.matrices(model)
    if not found:
        raise UserError("this model has no hidden linear map whose inputs could be rounded")

    def hook(module: nn.Module, arguments: tuple) -> tuple:
        return (rounded(arguments[0], int(bits)), *arguments[1:])

    for module in found.values():
        module.register_forward_pre_hook(hook)
