"""A physics-informed workload in float64: what another workload's float32 parts become.

The pool of points is drawn in float32, as there, and only its numbers are used in float64. The
coefficient, the conditions' values and the hidden grid are computed in float64, because a value
that is rounded to float32 limits the relative error to about 1e-7.
"""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from workloads.pde import collocation


def training(found: dict[str, Tensor], coefficient: float, **conditions) -> dict[str, Tensor]:
    """Return float64 training data, with the exact coefficient and the given conditions.

    Args:
        found: training data as workloads.pde.collocation makes it.
        conditions: points and values by name, float64 arrays, in place of rounded ones.
    """
    exact = {name: torch.as_tensor(value) for name, value in conditions.items()}
    wide = {name: t.double() if t.is_floating_point() else t for name, t in found.items()}
    return wide | exact | {"coefficient": torch.tensor(coefficient, dtype=torch.float64)}


def hidden(
    config: SimpleNamespace, box: Tensor, solution: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> dict[str, Tensor]:
    """Return the grid's points [N, 2] and the solution there [N], float64."""
    sides = zip(*box.tolist(), config.data.grid, strict=True)
    x, t = (collocation.spread(*side) for side in sides)
    second, first = np.meshgrid(t, x, indexing="ij")
    points = np.stack([first.ravel(), second.ravel()], axis=1)
    return {"points": torch.as_tensor(points), "values": torch.as_tensor(solution(x, t).ravel())}


def batch_of(data: dict[str, Tensor], points: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return a training batch at these points [B, 2], in float64, with all conditions."""
    return collocation.batch_of(data, points.double(), config)
