"""Physics-informed network: Poisson's equation on the unit square, with a smooth solution.

    -Δu = 2π²·amplitude·sin πx·sin πy on [0, 1]²,  u = 0 on the edge

    mini    amplitude 1, 2 x 32 tanh units, 900 points a step

The setting is that of ENGD, Müller and Zeinhofer, arXiv 2302.13163. The trial's seed draws the
amplitude (within 20 %). The solution is amplitude·sin πx·sin πy.

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
    """Return the corners of (x, y), [2, 2]."""
    return torch.tensor([[0.0, 0.0], [1.0, 1.0]])


def data(config: SimpleNamespace, split: str, seed: int) -> dict[str, Tensor]:
    """Return the data of a split, as workloads.pde.collocation describes it."""
    amplitude, _ = collocation.draw(config, seed, config.data.amplitude)
    if split == "val":
        return collocation.hidden(config, box(config), lambda x, y: exact.poisson(x, y, amplitude))
    s = spread(0, 1, config.data.boundary)
    edge = np.concatenate([line(s, 0.0), line(s, 1.0), line(0.0, s), line(1.0, s)])
    return collocation.training(
        config, seed, box(config), amplitude, boundary=edge, boundary_values=np.zeros(len(edge))
    )


def model(config: SimpleNamespace) -> nn.Module:
    return MLP(**vars(config.model))


def terms(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return scaled residual [B] and boundary: the loss is the sum of their mean squares."""
    points = batch["points"]
    _, _, (u_xx, u_yy) = model.curvatures(points, (0, 1))
    source = 2 * np.pi**2 * collocation.coefficient(batch) * (np.pi * points).sin().prod(1)
    return {"residual": u_xx + u_yy + source} | collocation.conditions(model, batch)


loss, losses = collocation.objective(terms)
