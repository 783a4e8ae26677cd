"""A loss as a smooth part and a simple rest: a penalty, or a set that the weights stay in."""

from collections.abc import Sequence
from types import SimpleNamespace

from torch import Tensor, nn

from harness.train.offered import Functions


class Composite:
    """The parts of a workload's loss, for methods that treat them differently.

    The rest is simple: its proximal operator has a closed form. If it is a set (the rest is 0 in
    it, infinite outside), the operator is the projection onto it. Without one the rest is 0.

    Args:
        functions: the workload's functions.
        data: the training data.
        config: the workload's numbers.
    """

    def __init__(self, functions: Functions, data: dict, config: SimpleNamespace):
        self._functions, self._data, self._config = functions, data, config

    def smooth(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Return the differentiable part of the batch's loss, 0-dim, for `task.backward`."""
        return getattr(self._functions, "smooth", self._functions.loss)(model, batch)

    def prox(self, values: Sequence[Tensor], step: float) -> list[Tensor]:
        """Return argmin over z of rest(z) + ‖z - values‖²/(2·step).

        Args:
            values: new values of `task.params`; they are not changed.
            step: above 0; a projection does not depend on it.
        """
        if not hasattr(self._functions, "prox"):
            return [value.clone() for value in values]
        return self._functions.get("prox")(self._data, list(values), step, self._config)

    def lmo(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """Return argmin over z in the set of <directions, z>: the linear minimisation oracle.

        Args:
            directions: one tensor for each of `task.params`.

        Raises:
            UserError: the workload has no such set, or the set is not bounded.
        """
        return self._functions.get("lmo")(self._data, list(directions), self._config)
