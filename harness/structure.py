"""What can be removed whole from a transformer: a block's neurons, its attention heads, the block.

A block of `model.blocks` has four linear maps `qkv` [3·width, width] (queries, keys and values
below each other, heads beside each other), `project` [width, width], `up` [inner, width] and `down`
[width, inner], a number `heads`, an `activation` and a truth value `pre` (norms before the maps).
A neuron is a row of `up`, its bias and a column of `down`. A head is its rows of `qkv`, their
biases, and columns of `project`. What is removed is zero in the weights that are handed over; the
referee counts what is left (harness/race/reduction.py).
"""

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from harness.errors import UserError

MAPS = ("qkv", "project", "up", "down")


class Block(nn.Module):
    """The attributes of a block; a model's own class has them."""

    qkv: nn.Linear
    project: nn.Linear
    up: nn.Linear
    down: nn.Linear
    heads: int
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
        missing = [
            name for name in (*MAPS, "heads", "activation", "pre") if not hasattr(block, name)
        ]
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


def share_of_head(block: Block) -> int:
    """Return the parameters that go with one head, biases included."""
    each = block.qkv.weight.shape[1] + (block.qkv.bias is not None)
    return width_of_head(block) * (3 * each + block.project.weight.shape[0])


def share_of_neuron(block: Block) -> int:
    """Return the parameters that go with one neuron, bias included."""
    return block.up.weight.shape[1] + (block.up.bias is not None) + block.down.weight.shape[0]
