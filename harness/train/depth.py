"""Blocks of a model that can be switched off: the one place that knows where they are listed.

A model whose blocks can be left out has an attribute `active`, a list with one truth value a block,
and its forward pass skips the blocks that are False. A model without it always runs whole.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def depth(model: "nn.Module") -> list[bool] | None:
    """Return one truth value a block, True if the block runs; None if no block can be switched."""
    return getattr(model, "active", None)


def set_depth(model: "nn.Module", active: Sequence | None) -> None:
    """Switch the model's blocks on or off.

    Args:
        active: one value a block; ignored where the model has no blocks to switch.

    Raises:
        ValueError: the number of values is not the model's number of blocks.
    """
    blocks = depth(model)
    if blocks is None:
        return
    if active is None or len(active) != len(blocks):
        count = "none" if active is None else len(active)
        raise ValueError(f"the model has {len(blocks)} blocks to switch; values given: {count}")
    blocks[:] = [bool(value) for value in active]


def share(model: "nn.Module") -> Fraction:
    """Return the share of the model's blocks that run, 1 where no block can be switched."""
    blocks = depth(model)
    return Fraction(sum(blocks), len(blocks)) if blocks else Fraction(1)
