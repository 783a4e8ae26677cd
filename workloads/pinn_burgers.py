"""Physics-informed network: the viscous Burgers equation, whose solution steepens to a shock.

    u_t + u·u_x = viscosity·u_xx on [-1, 1] x [0, 1],  u(x, 0) = -sin πx,  u(±1, t) = 0

    mini    viscosity 0.01/π, 3 x 32 tanh units, 500 points a step

Raissi et al., arXiv 1711.10561. The trial's seed draws the viscosity (within 20 %). The reference
solution is Cole and Hopf's transformation with 200 Gauss-Hermite nodes.

Data: collocation points drawn from the trial's seed; no licence is needed. Goal at mini: a relative
error stated after the literature, rule `stated` of conf/targets.yaml. The horizon is such that the
tuned reference, adam, meets it within half to nine tenths of the budget. Budget: `horizon`
reference steps.
"""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from workloads.models.mlp import MLP
from workloads.pde import collocation, exact
from workloads.pde.collocation import batch, batch_of, line, metric, score, size, spread

__all__ = ["batch", "batch_of", "metric", "score", "size"]


def box(config: SimpleNamespace) -> Tensor:
    """Return the corners of (x, t), [2, 2]."""
    return torch.tensor([[-1.0, 0.0], [1.0, 1.0]])


def data(config: SimpleNamespace, split: str, seed: int) -> dict[str, Tensor]:
    """Return the data of a split, as workloads.pde.collocation describes it."""
    viscosity, _ = collocation.draw(config, seed, config.data.viscosity)
    if split == "val":
        return collocation.hidden(config, box(config), lambda x, t: exact.burgers(x, t, viscosity))
    x, t = spread(-1, 1, config.data.initial), spread(0, 1, config.data.boundary)
    walls = np.concatenate([line(-1.0, t), line(1.0, t)])
    return collocation.training(
        config, seed, box(config), viscosity,
        initial=line(x, 0.0), initial_values=-np.sin(np.pi * x),
        boundary=walls, boundary_values=np.zeros(len(walls)),
    )  # fmt: skip


def model(config: SimpleNamespace) -> nn.Module:
    return MLP(**vars(config.model), period=2.0)


def terms(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return scaled residual [B], initial, boundary: the loss is the sum of their mean squares."""
    u, slope, (u_xx,) = model.curvatures(batch["points"], (0,))
    residual = slope[:, 1] + u * slope[:, 0] - collocation.coefficient(batch) * u_xx
    return {"residual": residual} | collocation.conditions(model, batch)


loss, losses = collocation.objective(terms)
