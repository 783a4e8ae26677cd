"""What can be removed whole from a transformer: a block's neurons, its attention heads, the block.

A block of `model.blocks` has four linear maps `qkv` [3·width, width] (queries, keys and values
below each other, heads beside each other), `project` [width, width], `up` [inner, width] and `down`
[width, inner], norms `norm1` and `norm2`, a number `heads`, an `activation` and a truth value `pre`
(a norm is before its maps).
A neuron is a row of `up`, its bias and a column of `down`. A head is its rows of `qkv`, their
biases, and columns of `project`. What is removed is zero in the weights that are handed over; the
referee counts what is left (harness/race/reduction.py).
"""

import math
from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.errors import UserError

MAPS = ("qkv", "project", "up", "down")
OTHERS = ("norm1", "norm2", "heads", "activation", "pre")


class Block(nn.Module):
    """The attributes of a block; a model's own class has them."""

    qkv: nn.Linear
    project: nn.Linear
    up: nn.Linear
    down: nn.Linear
    heads: int
    norm1: nn.Module
    norm2: nn.Module
    activation: Callable[[Tensor], Tensor]
    pre: bool


class Masks(Protocol):
    """Where the elements of a parameter that stay are written down, as `task.masks`."""

    def set(self, parameter: nn.Parameter, kept: Tensor) -> None:
        """Keep the elements where `kept` is true; zero the others."""


def blocks(model: nn.Module) -> list[Block]:
    """Return the model's blocks, in order.

    Raises:
        UserError: the model has no blocks of this form.
    """
    found = list(getattr(model, "blocks", []))
    for block in found:
        missing = [name for name in (*MAPS, *OTHERS) if not hasattr(block, name)]
        if missing:
            raise UserError(
                f"a block of {type(model).__name__} has no {missing[0]}: "
                "its neurons and heads cannot be removed",
                "blocks with qkv, project, up and down, as in gpt2 and vit",
            )
    if not found:
        raise UserError(
            f"{type(model).__name__} has no blocks: it has no neurons and heads to remove",
            "a model with a list `blocks`, as in gpt2 and vit",
        )
    return cast(list[Block], found)


def neurons(block: Block) -> int:
    """Return the number of the perceptron's neurons."""
    return block.up.weight.shape[0]


def width_of_head(block: Block) -> int:
    """Return the number of channels of an attention head."""
    return block.project.weight.shape[1] // block.heads


def rows_of_heads(block: Block, chosen: Tensor) -> Tensor:
    """Return the rows of `qkv` that belong to the chosen heads, bool [3·width].

    Args:
        chosen: one truth value a head.
    """
    return columns_of_heads(block, chosen).repeat(3)


def columns_of_heads(block: Block, chosen: Tensor) -> Tensor:
    """Return the columns of `project` that belong to the chosen heads, bool [width]."""
    return chosen.bool().repeat_interleave(width_of_head(block))


def keep(masks: Masks, block: Block, heads: Tensor, neurons: Tensor) -> None:
    """Remove a block's other heads and neurons: set the masks of its weights and biases.

    Args:
        heads, neurons: one truth value a head, and a neuron: True for those that stay.
    """
    rows, columns = rows_of_heads(block, heads), columns_of_heads(block, heads)
    neurons = neurons.bool()
    _set(masks, block.qkv, rows, None)
    _set(masks, block.project, None, columns)
    _set(masks, block.up, neurons, None)
    _set(masks, block.down, None, neurons)


def remove(masks: Masks, block: Block) -> None:
    """Remove a whole block of a pre-norm model: it adds nothing to its input."""
    for module in (block.qkv, block.project, block.up, block.down):
        for parameter in module.parameters(recurse=False):
            masks.set(parameter, torch.zeros_like(parameter))


def _set(masks: Masks, module: nn.Linear, rows: Tensor | None, columns: Tensor | None) -> None:
    """Keep these rows or columns of a map's weight, and of its bias these entries."""
    kept = rows[:, None] if rows is not None else columns
    assert kept is not None
    for parameter in module.parameters(recurse=False):
        if parameter.ndim == 2:
            masks.set(parameter, kept.expand_as(parameter))
        elif rows is not None:
            masks.set(parameter, rows)


@torch.no_grad()
def scale_inputs(norm: nn.Module, reader: nn.Module, scale: Tensor) -> None:
    """Divide a norm's output by `scale` [width] and multiply its reader's columns by it.

    The function stays the same if the norm has no other reader (a block's two norms, if `pre`).
    """
    for parameter in norm.parameters(recurse=False):
        parameter.div_(scale)
    reader.get_parameter("weight").mul_(scale)


def readers(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Return each norm of the blocks and the linear map that alone reads it.

    Raises:
        UserError: the norms come after the sums, where the residual stream reads them too.
    """
    found = blocks(model)
    if not all(block.pre for block in found):
        raise UserError("norms after the sums have other readers", "norms before the maps")
    pairs = [[(block.norm1, block.qkv), (block.norm2, block.up)] for block in found]
    return [pair for both in pairs for pair in both]


def share_of_head(block: Block) -> int:
    """Return the parameters that go with one head, biases included."""
    each = block.qkv.weight.shape[1] + (block.qkv.bias is not None)
    return width_of_head(block) * (3 * each + block.project.weight.shape[0])


def share_of_neuron(block: Block) -> int:
    """Return the parameters that go with one neuron, bias included."""
    return block.up.weight.shape[1] + (block.up.bias is not None) + block.down.weight.shape[0]


@torch.no_grad()
def operations(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """Return the operations of a forward pass of one example, and its number of tokens.

    An operation is a multiplication or an addition, as in harness/race/reduction.py.
    """
    seen: list[int] = []
    hook = blocks(model)[0].up.register_forward_hook(lambda m, args, y: seen.append(y.shape[-2]))
    # Only the plain kernel of attention is counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x[:1])
    hook.remove()
    return counter.get_total_flops(), seen[0]


def fitting(
    model: nn.Module,
    x: Tensor,
    heads: list[Tensor],
    neurons: list[Tensor],
    size: float = 1.0,
    flops: float = 1.0,
) -> list[tuple[Tensor, Tensor]]:
    """Return which heads and neurons of each block stay, as truth values for `keep`.

    Those of the smallest scores go first, in one ranking of both, until both shares hold.

    Args:
        x: inputs of the model; one example is enough.
        heads, neurons: a score for each of them, block by block.
        size: of the model's parameters; a goal's bound on `size`.
        flops: of a forward pass's operations; a goal's bound on `flops`.

    Raises:
        UserError: the shares are smaller than the model without heads and neurons.
    """
    scores = [part for pair in zip(heads, neurons, strict=True) for part in pair]
    counts = [len(part) for part in scores]
    each = torch.tensor(counts)
    shares = {name: share for name, share in (("size", size), ("flops", flops)) if share < 1}
    cost = {n: torch.tensor(costs(model, x, n)).repeat_interleave(each) for n in shares}
    kept = _largest(model, x, torch.cat(scores), cost, shares)
    parts = kept.split(counts)
    return list(zip(parts[::2], parts[1::2], strict=True))


def fitting_blocks(
    model: nn.Module, x: Tensor, scores: Tensor, size: float = 1.0, flops: float = 1.0
) -> Tensor:
    """Return which blocks stay, bool [blocks], as `fitting` does for heads and neurons.

    Args:
        scores: one a block.
    """
    found, cost = blocks(model), {}
    if size < 1:
        cost["size"] = torch.tensor([sum(p.numel() for p in b.parameters()) for b in found])
    if flops < 1:
        units = torch.tensor(costs(model, x, "flops")).view(-1, 2)
        counts = torch.tensor([[block.heads, neurons(block)] for block in found])
        cost["flops"] = (units * counts).sum(1)
    return _largest(model, x, scores, cost, {"size": size, "flops": flops})


def _largest(
    model: nn.Module,
    x: Tensor,
    scores: Tensor,
    cost_of: dict[str, Tensor],
    shares: dict[str, float],
) -> Tensor:
    """Return True for units of the largest scores, as many as every share allows.

    Args:
        cost_of: by the name of a share, what each unit costs, in whole numbers.
    """
    order, count = scores.cpu().argsort(stable=True), 0
    for name, cost in cost_of.items():
        parameters = sum(p.numel() for p in model.parameters())
        whole = parameters if name == "size" else operations(model, x)[0]
        # The product is a whole number but for its rounding, or lies between two.
        needed = math.ceil(round((1 - shares[name]) * whole, 6))
        if needed > int(cost.sum()):
            raise UserError(
                f"a {name} of {shares[name]:g} is not possible",
                f"{1 - int(cost.sum()) / whole:.2f} is left when all that can go is gone",
            )
        count = max(count, int((cost[order].cumsum(0) < needed).sum()) + (needed > 0))
    gone = torch.zeros(len(order), dtype=torch.bool)
    gone[order[:count]] = True
    return (~gone).to(scores.device)


def costs(model: nn.Module, x: Tensor, name: str) -> list[int]:
    """Return what a head and a neuron cost, block by block: parameters, or operations an example.

    Args:
        x: inputs of the model.
        name: "size" or "flops".
    """
    found, result = blocks(model), []
    tokens = operations(model, x)[1] if name == "flops" else 0
    for block in found:
        width, each = block.qkv.weight.shape[1], width_of_head(block)
        if name == "flops":
            result += [2 * tokens * each * (4 * width + 2 * tokens), 4 * tokens * width]
        else:
            result += [share_of_head(block), share_of_neuron(block)]
    return result
