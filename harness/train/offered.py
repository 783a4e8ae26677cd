"""What a submission's process has of its workload: functions of models and batches.

The functions that draw data stay with the referee. In one process this is order, not a wall: a
workload's source is public. In `strict` the kernel closes the held-out data, and instances of a
referee's own key cannot be drawn without it.
"""

import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType

from torch import Tensor

from harness import contract
from harness.errors import UserError

# Functions that only the referee calls once the runner has built its model.
REFEREE = frozenset({"data", "metric", "score", "pretrained", "stream", "quality", "tokens"})
# Those of them that draw data or their order.
DRAWING = ("data", "pretrained", "stream")


class Functions:
    """The functions that a task offers of its workload, as attributes.

    Args:
        workload: the workload's module; it is not kept.
    """

    def __init__(self, workload: ModuleType):
        self.__name__ = workload.__name__
        self.loss: Callable[..., Tensor] = workload.loss
        self.batch: Callable[..., dict[str, Tensor]] = workload.batch
        for group in (contract.Workload, contract.WorkloadOptions):
            for name in contract.parameters(group).keys() - REFEREE:
                if hasattr(workload, name):
                    setattr(self, name, getattr(workload, name))

    def get(self, name: str):
        """Return a function of the workload; raise UserError if it does not have it."""
        if not hasattr(self, name):
            raise UserError(f"workload {self.__name__} offers no {name}()")
        return getattr(self, name)


def conceal(files: Collection[Path]) -> None:
    """Remove the functions that draw data from the loaded modules of these files."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and Path(file) in files:
            for name in DRAWING:
                vars(module).pop(name, None)
