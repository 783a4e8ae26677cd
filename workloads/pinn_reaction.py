"""Physics-informed network: logistic growth of a bump, at each place independently.

    u_t = rate·u(1 - u) on [0, 2π] x [0, 1],  u(x, 0) = exp(-(x - π)²/(2(π/4)²)),  periodic in x

    mini    rate 3, 3 x 32 tanh units, 1,000 points a step

Krishnapriyan et al., arXiv 2109.01050. The trial's seed draws the rate (within 5 %). The reference
solution is exact.

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
    return torch.tensor([[0.0, 0.0], [2 * np.pi, 1.0]])


def data(config: SimpleNamespace, split: str, seed: int) -> dict[str, Tensor]:
    """Return the data of a split, as workloads.pde.collocation describes it."""
    rate, _ = collocation.draw(config, seed, config.data.rate)
    if split == "val":
        return collocation.hidden(config, box(config), lambda x, t: exact.reaction(x, t, rate))
    x, t = spread(0, 2 * np.pi, config.data.initial), spread(0, 1, config.data.boundary)
    edges = np.concatenate([line(0.0, t), line(2 * np.pi, t)])
    return collocation.training(
        config, seed, box(config), rate,
        initial=line(x, 0.0), initial_values=exact.bump(x), boundary=edges,
    )  # fmt: skip


def model(config: SimpleNamespace) -> nn.Module:
    return MLP(**vars(config.model), period=2 * np.pi)


def terms(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return scaled residual [B], initial, boundary: the loss is the sum of their mean squares."""
    u, slope = model.slopes(batch["points"])
    grown = collocation.coefficient(batch) * u * (1 - u)
    return {"residual": slope[:, 1] - grown} | collocation.conditions(model, batch)


loss, losses = collocation.objective(terms)
