"""Physics-informed network: the Allen-Cahn equation, flat phases and sharp walls.

    u_t = diffusion·u_xx + 5(u - u³) on [-1, 1] x [0, duration],  u(x, 0) = x² cos πx,  periodic

    mini    diffusion 1e-2, duration 0.4, 3 x 32 tanh units on three harmonics, 500 points a step
    base    diffusion 1e-4, duration 1 (the literature's), 3 x 48 on five harmonics, 1,000 points

Raissi et al., arXiv 1711.10561; Daw et al., arXiv 2207.02338. The trial's seed draws the diffusion
(within 20 %). The reference solution is ETDRK4 with 2,048 Fourier modes. Without the diffusion the
solution differs by 0.73 % at base and 5.6 % at mini, so a goal above that would not test it. The
network's inputs are t, cos kπx and sin kπx, which make it exactly periodic.

Data: collocation points drawn from the trial's seed; no licence is needed. Goal at mini: a relative
error stated after the literature, rule `stated` of conf/targets.yaml. The horizon is such that the
tuned reference, adam, meets it within half to nine tenths of the budget. The goal at base is
provisional. Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from workloads.models.mlp import MLP
from workloads.pde import collocation, spectral
from workloads.pde.collocation import batch, batch_of, line, metric, score, size, spread

__all__ = ["batch", "batch_of", "metric", "score", "size"]


def box(config: SimpleNamespace) -> Tensor:
    """Return the corners of (x, t), [2, 2]."""
    return torch.tensor([[-1.0, 0.0], [1.0, config.data.duration]])


def data(config: SimpleNamespace, split: str, seed: int) -> dict[str, Tensor]:
    """Return the data of a split, as workloads.pde.collocation describes it."""
    diffusion, _ = collocation.draw(config, seed, config.data.diffusion)
    if split == "val":
        return collocation.hidden(
            config, box(config), lambda x, t: spectral.allen_cahn(x, t, diffusion)
        )
    x = spread(-1, 1, config.data.initial)
    return collocation.training(
        config, seed, box(config), diffusion,
        initial=line(x, 0.0), initial_values=x**2 * np.cos(np.pi * x),
    )  # fmt: skip


def model(config: SimpleNamespace) -> nn.Module:
    return MLP(**vars(config.model), period=2.0)


def terms(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return scaled residual [B] and initial: the loss is the sum of their mean squares."""
    u, slope, (u_xx,) = model.curvatures(batch["points"], (0,))
    residual = slope[:, 1] - collocation.coefficient(batch) * u_xx - 5 * (u - u**3)
    return {"residual": residual} | collocation.conditions(model, batch)


loss, losses = collocation.objective(terms)
