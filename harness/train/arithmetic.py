"""Low precision that a workload imposes on training: every hidden linear map computes in it.

A block's `arithmetic` is a kind. The harness rounds the three products of each map:

    y = Q(x)·Q(W)ᵀ + b;   ∂x = R(∂y)·Q(W);   ∂W = R(∂y)ᵀ·Q(x);   ∂b = Σ ∂y

    fp8         Q: E4M3, R: E5M2, saturating, to nearest; each tensor is scaled so that its largest
                magnitude is the format's largest value
    fp8_static  the same formats with scales that follow no tensor: 1 for x, 1/√inputs for W,
                1/tokens for ∂y, which is what a mean over tokens makes of slopes of size 1 (the
                static casts of μnit scaling, arXiv 2502.05967)
    int8        Q and R: 255 symmetric points up to the largest magnitude; Q to nearest, R up or
                down at random with the right mean
    jetfire     the same points for each tile of 32 x 32 by itself (Jetfire, arXiv 2403.12422)
    integer     8-bit mantissas with one exponent a tensor: steps of 2^(e - 7), e the exponent of
                the largest magnitude; Q to nearest, R at random (arXiv 2209.09815)
    int4        15 symmetric points up to the largest magnitude of a row (a token, an output); Q to
                nearest, R at random (after arXiv 2407.12637, whose steps are learned)

Sums are float32, and so are the weights that the optimizer holds, and all of an evaluation. It
cannot be measured on weights, so it is imposed: a submission that replaces linear maps is refused.
"""

from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import surgery
from harness.catalog.numbers import ARITHMETIC
from harness.errors import UserError

FLOATS = {
    "input": (torch.float8_e4m3fn, 448.0),
    "weight": (torch.float8_e4m3fn, 448.0),
    "gradient": (torch.float8_e5m2, 57344.0),
}
STEPS, TILE, MANTISSA = 127, 32, 8
ROW_STEPS = 7  # of int4


def rounded(x: Tensor, kind: str, use: str) -> Tensor:
    """Return a tensor rounded for a product; `use` is "input", "weight" or "gradient"."""
    if kind.startswith("fp8"):
        form, top = FLOATS[use]
        scale = _largest(x) / top if kind == "fp8" else _static(x, use)
        return (x / scale).clamp(-top, top).to(form).to(x.dtype) * scale
    if kind == "jetfire":
        return _by_tiles(x, use)
    if kind == "int4":
        return _whole(x, x.abs().amax(-1, keepdim=True) / ROW_STEPS, ROW_STEPS, use)
    if kind == "integer":
        exponent = torch.frexp(_largest(x)).exponent
        step = torch.ldexp(torch.ones_like(_largest(x)), exponent - MANTISSA + 1)
        return _whole(x, step, STEPS, use)
    return _whole(x, _largest(x) / STEPS, STEPS, use)


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax().clamp(min=torch.finfo(x.dtype).tiny)


def _static(x: Tensor, use: str) -> float:
    """Return the scale of a tensor that is rounded without a look at its values."""
    if use == "weight":
        return x.shape[-1] ** -0.5
    return 1.0 if use == "input" else x.shape[-1] / x.numel()


def _whole(x: Tensor, step: Tensor, most: int, use: str) -> Tensor:
    """Return whole multiples of a step, at most `most` of them; gradients are rounded at random."""
    step = step.clamp(min=torch.finfo(x.dtype).tiny)
    place = x / step
    if use == "gradient":
        return step * (place + torch.rand_like(place)).floor().clamp(-most, most)
    return step * place.round().clamp(-most, most)


def _by_tiles(x: Tensor, use: str) -> Tensor:
    """Return x [..., columns] with a grid of its own for each tile of rows and columns."""
    flat = x.flatten(0, -2)
    down, across = (-n % TILE for n in flat.shape)
    tiles = F.pad(flat, (0, across, 0, down)).unfold(0, TILE, TILE).unfold(1, TILE, TILE)
    step = tiles.abs().amax((-2, -1), keepdim=True) / STEPS
    whole = _whole(tiles, step, STEPS, use).transpose(1, 2)
    rows, columns = flat.shape
    return whole.reshape(rows + down, columns + across)[:rows, :columns].view_as(x)


class Product(torch.autograd.Function):
    """A linear map in low precision."""

    @staticmethod
    def forward(ctx, x, weight, bias, kind):
        x, weight = rounded(x, kind, "input"), rounded(weight, kind, "weight")
        ctx.save_for_backward(x, weight)
        ctx.kind = kind
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, *grads):
        x, weight = ctx.saved_tensors
        exact = grads[0]
        g = rounded(exact, ctx.kind, "gradient")
        flat, rows = g.flatten(0, -2), x.flatten(0, -2)
        bias = exact.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None
        return g @ weight, flat.T @ rows, bias, None


def _product(module: nn.Module, kind: str, x: Tensor) -> Tensor:
    return Product.apply(x, module.weight, module.bias, kind)  # type: ignore[return-value]


def impose(model: nn.Module, config: SimpleNamespace) -> None:
    """Let the hidden linear maps of a model compute in the block's arithmetic, if it has one."""
    kind = getattr(config, "arithmetic", None)
    if kind is None:
        return
    assert kind in ARITHMETIC
    for module in surgery.matrices(model).values():
        # A copy of the model copies the binding together with the module.
        module.forward = partial(_product, module, kind)


def check(model: nn.Module, config: SimpleNamespace) -> None:
    """Raise UserError if a hidden linear map does not compute as its workload imposes."""
    if getattr(config, "arithmetic", None) is None:
        return
    for name, module in surgery.matrices(model).items():
        bound = module.__dict__.get("forward")
        mine = (_product, module, config.arithmetic)
        if not isinstance(bound, partial) or (bound.func, *bound.args) != mine:
            raise UserError(
                f"the workload imposes its arithmetic, and {name} has another forward pass",
                "submissions that leave the model's linear maps in place",
            )
