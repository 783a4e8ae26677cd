"""What an engine does to the passes of a workload: their precision, compilation, recomputation.

The same is done to the reference step, to the passes whose price is measured, and to those of a
submission. The referee evaluates in float32, with the workload's own functions.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from harness.errors import UserError

# Functions of a workload that run its model.
PASSES = ("loss", "losses", "terms", "logits", "features", "smooth")
# What the products of a pass are computed in, by the engine's word.
DTYPES: dict[str | None, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Engined:
    """A workload's functions as an engine runs them; the others are the workload's own.

    Args:
        workload: the module.
        engine: its options; `precision` and `compile` are read.
        device: "cpu" or "cuda".
    """

    def __init__(self, workload: ModuleType, engine: dict, device: str):
        self.__name__, self._workload, self._engine = workload.__name__, workload, engine
        self._device = device
        for name in PASSES:
            if hasattr(workload, name):
                setattr(self, name, self._made(getattr(workload, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workload, name)

    def _made(self, function: Callable) -> Callable:
        if dtype := DTYPES.get(self._engine.get("precision")):
            function = in_precision(function, self._device, dtype)
        return torch.compile(function) if self._engine.get("compile") else function


def in_precision(function: Callable, device: str, dtype: torch.dtype) -> Callable:
    """Return the function under autocast; what it returns is float32.

    The range of bfloat16 is that of float32, so its gradients need no scaling; loss_scale.py has
    that of float16.
    """

    @functools.wraps(function)
    def run(*arguments):
        with torch.autocast(device, dtype):
            return _in_float32(function(*arguments))

    return run


def _in_float32(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _in_float32(each) for name, each in value.items()}
    return value.float() if value.is_floating_point() else value


class Recomputed:
    """The forward function of a block whose activations are computed again in the backward pass."""

    recomputes = True

    def __init__(self, block: nn.Module):
        self._block = block

    def __call__(self, *arguments, **keywords):
        forward = type(self._block).forward.__get__(self._block)
        if not torch.is_grad_enabled():
            return forward(*arguments, **keywords)
        return checkpoint(forward, *arguments, use_reentrant=False, **keywords)


def recompute(model: nn.Module) -> None:
    """Let a model keep only the inputs of its blocks for the backward pass.

    Raises:
        UserError: the model has no blocks.
    """
    blocks = blocks_of(model)
    if not blocks:
        raise UserError(
            "engine.checkpointing=true: this model has no list of blocks to compute again",
            do="engine.checkpointing=false",
        )
    for block in blocks:
        block.forward = Recomputed(block)  # type: ignore[method-assign]


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the members of the model's lists of modules: its blocks."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [block for each in lists for block in each]


def prepared(workload: ModuleType, model: nn.Module, engine: dict, device: str) -> Any:
    """Return the workload's functions as an engine runs them, and change the model so."""
    if engine.get("checkpointing"):
        recompute(model)
    if engine.get("compile") or engine.get("precision"):
        return Engined(workload, engine, device)
    return workload
