"""Low precision that a workload imposes on training: every hidden linear map computes in it.

A block's `arithmetic` is a kind. The harness rounds the three products of each map:

    y = Q(x)·Q(W)ᵀ + b;   ∂x = R(∂y)·Q(W);   ∂W = R(∂y)ᵀ·Q(x);   ∂b = Σ ∂y

    fp8    Q: E4M3, R: E5M2, saturating, to nearest; each tensor is scaled so that its largest
           magnitude is the format's largest value
    int8   Q and R: 255 symmetric steps up to the largest magnitude; Q to nearest, R up or down at
           random with the right mean

Sums are float32, and so are the weights that the optimizer holds, and all of an evaluation. It
cannot be measured on weights, so it is imposed: a submission that replaces linear maps is refused.
"""

from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import surgery
from harness.catalog.definition import ARITHMETIC
from harness.errors import UserError

FLOATS = {"input": (torch.float8_e4m3fn, 448.0), "gradient": (torch.float8_e5m2, 57344.0)}
STEPS = 127


def rounded(x: Tensor, kind: str, use: str) -> Tensor:
    """Return a tensor rounded for a product; `use` is "input" or "gradient"."""
    largest = x.abs().amax().clamp(min=torch.finfo(x.dtype).tiny)
    if kind == "fp8":
        form, top = FLOATS[use]
        scale = largest / top
        return (x / scale).clamp(-top, top).to(form).to(x.dtype) * scale
    step = largest / STEPS
    place = x / step
    if use == "gradient":
        return step * (place + torch.rand_like(place)).floor().clamp(-STEPS, STEPS)
    return step * place.round()


class Product(torch.autograd.Function):
    """A linear map in low precision."""

    @staticmethod
    def forward(ctx, x, weight, bias, kind):
        x, weight = rounded(x, kind, "input"), rounded(weight, kind, "input")
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
