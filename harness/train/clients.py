"""What is sent among the clients of a workload, and which batches are of more than one."""

from collections.abc import Mapping
from fractions import Fraction

from torch import Tensor

from harness.errors import UserError
from harness.train.offered import Functions


def sent(workload: Functions, share: float | Fraction) -> Fraction:
    """Return the share of an exchange that a submission asks for.

    Raises:
        UserError: the workload has no clients, or the share is not above 0.
    """
    if not hasattr(workload, "clients"):
        raise UserError(
            f"workload {workload.__name__} has no clients that could exchange anything",
            do="workload=fed",
        )
    share = Fraction(share).limit_denominator(10**6)
    if share <= 0:
        raise UserError(f"exchange({share})", "a share of at least 1e-6", "task.exchange(1)")
    return share


def mixed(workload: Functions, batch: Mapping[str, Tensor]) -> bool:
    """Return True if a batch has examples of more than one client, or does not say of whom."""
    client = batch.get("client")
    if client is None:
        return hasattr(workload, "clients")
    return bool((client != client[0]).any())
