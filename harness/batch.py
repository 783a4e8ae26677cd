"""What a submission reads of a batch, or a refusal in words where the workload has none of it."""

from torch import Tensor

from harness.errors import UserError


def part(batch: dict[str, Tensor], name: str) -> Tensor:
    """Return a tensor of the batch; raise UserError if this workload's batches do not have it."""
    if name not in batch:
        raise UserError(
            f"the batches of this workload have no {name!r}", "they have " + ", ".join(batch)
        )
    return batch[name]


def labels(batch: dict[str, Tensor]) -> Tensor:
    """Return the class of each example, int64 [B]; raise UserError if examples have none."""
    targets = batch.get("targets")
    if targets is None or targets.ndim != 1 or targets.is_floating_point():
        raise UserError("these examples do not have one label each", "a workload of classes")
    return targets
