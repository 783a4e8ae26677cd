"""Count the bytes that a training step takes, tensor by tensor: the same on every machine."""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from harness.seeds import forked


def training_memory(model: nn.Module, loss: Callable, batch: dict, state: int) -> int:
    """Return the bytes of parameters, buffers, gradients, a method's state, and saved tensors.

    The count is analytic: it has no allocator, no temporary tensors, no fragmentation. All
    gradients count, also for a method that frees each gradient as soon as it was used. So do
    tensors that a function of its own keeps for backward as attributes, and those of modules.

    Args:
        model: the model as it trains now; a copy without its hooks makes one forward pass.
        loss: a function of a model and a batch.
        batch: the examples of one step.
        state: bytes of the method's state.
    """
    tensors = [*model.parameters(), *model.buffers()]
    gradients = sum(_size(p) for p in model.parameters() if p.requires_grad)
    return sum(map(_size, tensors)) + gradients + state + _saved(model, loss, batch)


def _saved(model: nn.Module, loss: Callable, batch: dict) -> int:
    """Return the bytes that autograd saves for backward, without the model and the batch."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            hooks.clear()
    counted = {
        t.untyped_storage().data_ptr()
        for t in [*model.parameters(), *model.buffers(), *batch.values()]
    }
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in counted:
            counted.add(storage.data_ptr())
            total += storage.nbytes()
        return tensor

    device = next(model.parameters()).device
    with forked(device), torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        # The result holds the saved tensors, so that no storage is freed and used a second time.
        result = loss(model, batch)
        for tensor in _kept(result, model):
            count(tensor)
        del result
    return total


def _kept(result: Tensor, model: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors in attributes of the functions of a result's graph, and of modules."""
    left, known = [result.grad_fn], set()
    while left:
        if (node := left.pop()) is None or node in known:
            continue
        known.add(node)
        left += [below for below, _ in node.next_functions]
        yield from _tensors(getattr(node, "__dict__", {}))
    for module in model.modules():
        own = {k: v for k, v in vars(module).items() if k not in ("_parameters", "_buffers")}
        yield from _tensors(own)


def _tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _size(tensor: Tensor) -> int:
    """Return the bytes of a tensor."""
    return tensor.numel() * tensor.element_size()
