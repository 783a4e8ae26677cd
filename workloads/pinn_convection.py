"""Physics-informed network: transport of a sine wave, the classic failure of fixed points.

    u_t + speed·u_x = 0 on [0, 2π] x [0, 1],  u(x, 0) = sin(x - phase),  periodic in x

    mini    speed 20, 4 x 50 tanh units, 250 points a step
    base    speed 30 (variant 50), 1,000 points a step

Krishnapriyan et al., arXiv 2109.01050; Daw et al. (R3), arXiv 2207.02338. The speed (to 2 %) and
the phase are drawn from the trial's seed. Loss: mean squared residual + w·(initial + periodicity);
R3's code has w = 100. The solution is exact. Initial and periodicity errors vanish long before the
wave has reached t = 1, so the loss says little and the error has a plateau that ends with a sharp
drop.
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
    """Corners of (x, t)."""
    return torch.tensor([[0.0, 0.0], [2 * np.pi, 1.0]])


def data(config: SimpleNamespace, split: str, seed: int) -> dict[str, Tensor]:
    """See workloads.pde.collocation."""
    speed, turn = collocation.draw(config, seed, config.data.speed)
    if split == "val":
        return collocation.hidden(
            config, box(config), lambda x, t: exact.convection(x, t, speed, turn)
        )
    x, t = spread(0, 2 * np.pi, config.data.initial), spread(0, 1, config.data.boundary)
    edges = np.concatenate([line(0.0, t), line(2 * np.pi, t)])
    return collocation.training(
        config, seed, box(config), speed,
        initial=line(x, 0.0), initial_values=np.sin(x - turn), boundary=edges,
    )  # fmt: skip


def model(config: SimpleNamespace) -> nn.Module:
    return MLP(**vars(config.model), period=2 * np.pi)


def terms(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """residual [B], initial, boundary, scaled so that the loss is the sum of their mean squares."""
    _, slope = model.slopes(batch["points"])
    residual = slope[:, 1] + collocation.coefficient(batch) * slope[:, 0]
    return {"residual": residual} | collocation.conditions(model, batch)


loss, losses = collocation.objective(terms)
