"""Passes over a model that need more than one backward: products with its derivatives, exact."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.errors import UserError

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
Terms = Callable[[nn.Module, Batch], dict[str, Tensor]]


class _Call(nn.Module):
    """A function of (model, batch) as a module, for `functional_call`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.inner = model

    def forward(self, function: Callable, batch: Batch):
        return function(self.inner, batch)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that train, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def call(function: Callable, model: nn.Module, batch: Batch, values: Sequence[Tensor]):
    """function(model, batch) with other values of the trainable parameters, swapped in."""
    swapped = dict(zip(trainable(model), values, strict=True))
    inside = {f"inner.{name}": value for name, value in swapped.items()}
    return torch.func.functional_call(_Call(model), inside, (function, batch))


def hvp(loss: Loss, model: nn.Module, batch: Batch, vectors: Sequence[Tensor]) -> list[Tensor]:
    """Hessian of the loss times `vectors`; attention by its plain kernel, which derives twice."""
    params = list(trainable(model).values())
    with sdpa_kernel(SDPBackend.MATH):
        grads = torch.autograd.grad(loss(model, batch), params, create_graph=True)
        return list(torch.autograd.grad(grads, params, grad_outputs=list(vectors)))


def per_example(loss: Loss, model: nn.Module, batch: Batch) -> list[Tensor]:
    """Gradient of each example's loss: for each trainable parameter a tensor [B, *shape].

    Raises:
        UserError: the batch has a number that belongs to no example, or the model's pass cannot be
            mapped over examples, because the shape of something in it depends on values.
    """
    if single := [name for name, value in batch.items() if not value.ndim]:
        raise UserError(
            f"gradients of single examples: {single[0]!r} of the batch belongs to no example",
            "a workload whose batches are examples alone",
        )

    def one(values: tuple, example: Batch) -> Tensor:
        return call(loss, model, {k: v.unsqueeze(0) for k, v in example.items()}, values)

    with sdpa_kernel(SDPBackend.MATH):
        values = tuple(p.detach() for p in trainable(model).values())
        try:
            return list(torch.func.vmap(torch.func.grad(one), in_dims=(None, 0))(values, batch))
        except RuntimeError as error:
            if "dynamic shape" not in str(error):
                raise
            raise UserError(
                "gradients of single examples: a shape in this model depends on the example",
                "a model without experts",
            ) from error


def jvp(residuals: Tensor, params: Sequence[Tensor], vectors: Sequence[Tensor]) -> Tensor:
    """Jacobian of `residuals` times `vectors`, by two reverse passes."""
    dual = torch.zeros_like(residuals, requires_grad=True)
    pulled = torch.autograd.grad(residuals, params, dual, create_graph=True)
    return torch.autograd.grad(pulled, dual, list(vectors))[0]


def forward_mode(
    function: Callable, model: nn.Module, batch: Batch, vectors: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return function(model, batch) and its derivative along `vectors`, by forward mode."""
    values = tuple(p.detach() for p in trainable(model).values())

    def at(*moved: Tensor) -> Tensor:
        return call(function, model, batch, moved)

    with sdpa_kernel(SDPBackend.MATH):
        value, derivative = torch.func.jvp(at, values, tuple(vectors))[:2]
    return value, derivative


def jacobian(residuals: Tensor, params: Sequence[Tensor], rows: int = 64) -> Tensor:
    """Jacobian of `residuals` [n] by all parameters, [n, P]: `rows` reverse passes at a time."""
    unit = torch.eye(len(residuals), dtype=residuals.dtype, device=residuals.device)
    parts = []
    for some in unit.split(rows):
        grads = torch.autograd.grad(
            residuals, params, some, retain_graph=True, is_grads_batched=True, allow_unused=True
        )
        zero = [p.new_zeros(len(some), p.numel()) for p in params]
        wide = [z if g is None else g.flatten(1) for z, g in zip(zero, grads, strict=True)]
        parts.append(torch.cat(wide, dim=1))
    return torch.cat(parts)


def jacobian_of_terms(
    terms: Terms, model: nn.Module, batch: Batch, params: Sequence[Tensor], rows: int = 64
) -> tuple[Tensor, Tensor]:
    """Return each term's values over the root of their number [n], and their Jacobian [n, P].

    A value that belongs to a point depends on no other point. Its row of the Jacobian comes from a
    pass over `rows` points, so that the time is proportional to the number of points and not to its
    square. A term belongs to the points if it has one value for one
    point and as many as points for more. The others are taken once.
    """
    points = batch["points"].split(rows)
    alone = terms(model, batch | {"points": points[0][:1]})
    values, slopes, own = {}, {}, set()
    for k, some in enumerate(points):
        found = terms(model, batch | {"points": some})
        if not k:
            own = {n for n, v in found.items() if len(alone[n]) == 1 and len(v) == len(some)}
        for name, v in found.items():
            if name in own or not k:
                values.setdefault(name, []).append(v.detach())
                slopes.setdefault(name, []).append(jacobian(v, params, rows))
    r, j = [], []
    for name, parts in values.items():
        count = sum(len(part) for part in parts)
        r.append(torch.cat(parts) / count**0.5)
        j.append(torch.cat(slopes[name]) / count**0.5)
    return torch.cat(r), torch.cat(j)


def mean_squares(
    terms: dict[str, Tensor], weights: Mapping[str, Tensor | None] | None = None
) -> Tensor:
    """Return the loss of a workload with terms: the sum of the terms' means of (weight·value)².

    A term whose weight is None is left out.
    """
    weights = weights or {}
    if unknown := set(weights) - set(terms):
        raise ValueError(f"weights for {sorted(unknown)[0]!r}; the terms are {', '.join(terms)}")
    given = {name: weight for name, weight in weights.items() if weight is not None}
    shown = {name: v for name, v in terms.items() if weights.get(name, v) is not None}
    values = [v * given[name] if name in given else v for name, v in shown.items()]
    return torch.stack([v.square().mean() for v in values]).sum()


def linear_maps(
    loss: Loss, model: nn.Module, batch: Batch
) -> tuple[Tensor, list[tuple[nn.Linear, Tensor, Tensor]]]:
    """Loss of the batch, and every nn.Linear in it with its inputs and outputs, in order."""
    seen: list[tuple[nn.Linear, Tensor, Tensor]] = []
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]

    def note(map_: nn.Linear, x: tuple, y: Tensor) -> None:
        seen.append((map_, x[0], y))

    hooks = [m.register_forward_hook(note) for m in linear]  # type: ignore[arg-type]
    try:
        return loss(model, batch), seen
    finally:
        for hook in hooks:
            hook.remove()
