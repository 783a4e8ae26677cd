"""Bytes that a training step takes, counted tensor by tensor: the same on every machine."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn


def training_memory(model: nn.Module, loss: Callable, batch: dict, state: int) -> int:
    """Bytes of parameters and buffers, gradients, a method's state, and what backward needs.

    Analytic: no allocator, no temporaries, no fragmentation. A method that frees each gradient as
    soon as it is used is counted with all of them.

    Args:
        model: as it trains now; a copy without its hooks is run forward, once.
        loss: of a model and a batch.
        state: bytes that the method keeps besides.
    """
    tensors = [*model.parameters(), *model.buffers()]
    gradients = sum(_size(p) for p in model.parameters() if p.requires_grad)
    return sum(map(_size, tensors)) + gradients + state + _saved(model, loss, batch)


def _saved(model: nn.Module, loss: Callable, batch: dict) -> int:
    """Bytes that autograd keeps between forward and backward, besides the model and the batch."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            hooks.clear()
    known = {
        t.untyped_storage().data_ptr()
        for t in [*model.parameters(), *model.buffers(), *batch.values()]
    }
    total = 0

    def kept(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            total += storage.nbytes()
        return tensor

    with torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(kept, lambda t: t):
        last = loss(model, batch)  # holds what was saved, so that no storage comes twice
        del last
    return total


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
