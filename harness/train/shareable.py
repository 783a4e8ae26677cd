"""What of a trial several processes cannot share."""

from torch import nn

from harness.errors import UserError
from harness.train.task import Task

REMEDY = "engine.processes=1"


def check(task: Task) -> None:
    """Raise UserError if a task's workload or model cannot be shared."""
    if hasattr(task._config, "arithmetic"):
        raise UserError(
            "the workload's arithmetic rounds by the largest value of a whole batch: ranks "
            "cannot share it",
            do=REMEDY,
        )
    if hasattr(task._workload, "clients"):
        raise UserError(
            "the workload counts what its clients exchange, and ranks would exchange more",
            do=REMEDY,
        )
    if task.labels is not None:
        raise UserError("labels are sold to one process: ranks would buy each again", do=REMEDY)
    norms = [m for m in task.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms:
        name = type(norms[0]).__name__
        raise UserError(
            f"the model has a {name}, which depends on the whole batch: ranks cannot share it",
            do=REMEDY,
        )


def refused(call: str, what: str) -> UserError:
    """Return the error of a call of the task that several processes do not offer."""
    return UserError(
        f"task.{call} is not offered on several processes: {what} are not shared", do=REMEDY
    )
