"""A model as a module whose gradients, and whose loss, are averaged over the ranks of a trial."""

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from harness.derivatives import Batch

# A module of (loss, part), and the parameter whose gradient is the loss's mean over the ranks; None
# if the backward pass does not average the loss.
Average = tuple[nn.Module, nn.Parameter | None]
# MiB of gradients that are exchanged at once. It is torch's own size; where none is given, torch
# begins with a bucket of 1 MiB, and a small model has one exchange more in each pass.
BUCKET = 25


class Run(nn.Module):
    """A model as a module whose forward is function(model, part)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Callable, part: Batch) -> Any:
        return function(self.model, part)


class Averaged(Run):
    """A `Run` of a loss whose backward pass also averages the loss over the ranks.

    The gradient of `mean` is the loss, so the exchange of the gradients averages it with them. An
    exchange of its own would cost more CPU time than all other work of a rank beside the passes.
    """

    def __init__(self, model: nn.Module):
        super().__init__(model)
        like = next(p for p in model.parameters() if p.requires_grad)
        self.mean = nn.Parameter(like.new_zeros(()))

    def forward(self, function: Callable, part: Batch) -> Any:
        value = super().forward(function, part)
        if value.grad_fn is None:
            return value
        # `mean` is zero and stays zero: no rule updates it.
        return value + self.mean * value.detach()


def over_ranks(model: nn.Module, with_loss: bool) -> Average:
    """Return the model under torch's DistributedDataParallel.

    Experts and skipped blocks need `find_unused_parameters`. `batched_grad_copy` copies the
    gradients to a bucket by one call, not one for each parameter.

    Args:
        with_loss: average the loss too.
    """
    run = Averaged(model) if with_loss else Run(model)
    with warnings.catch_warnings():
        # torch wants another argument in place of `broadcast_buffers`, which older versions do not
        # have.
        warnings.simplefilter("ignore", FutureWarning)
        module = nn.parallel.DistributedDataParallel(
            run,
            broadcast_buffers=False,
            find_unused_parameters=True,
            batched_grad_copy=True,
            bucket_cap_mb=BUCKET,
        )
    return module, run.mean if isinstance(run, Averaged) else None
