"""Asymmetric matrix sensing: recover a rectangular low-rank matrix from Gaussian measurements.

    y_i = <A_i, M> + noise,  M = U diag(1 ... 1/kappa) Vᵀ,  f(L, R) = mean (<A_i, LRᵀ> - y_i)² / 2

    mini    90 x 70 of rank 3, 2,700 measurements, factors of 6 columns (over-parameterised)
    base    150 x 120 of rank 3, 4,050 measurements (583 MB)

Setting: Xiong, Ding, Du, arXiv 2310.01769 (over-parameterised; gradient descent has a linear rate
only from an imbalanced start, L larger than R), and Tong, Ma, Chi, arXiv 2005.08898 (ScaledGD).
`design` has the A_i row by row. The rest is as in matrix_sensing, also how goal and budget were
set; the reference is gd.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from workloads.matrix_sensing import (
    batch,
    gaussian,
    generator,
    metric,
    orthonormal,
    score,
    size,
    spectrum,
)
from workloads.models.factors import Factors

__all__ = ["batch", "metric", "score", "size"]


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return design, float64 [m, rows·columns], and measurements [m]; validation: the matrix."""
    c = config.data
    source = generator(0)
    u, v = orthonormal(c.rows, c.rank, source), orthonormal(c.columns, c.rank, source)
    truth = (u * spectrum(c.rank, c.kappa)) @ v.T
    if split == "val":
        return {"truth": truth[None]}
    design = gaussian(c.measurements, c.rows * c.columns, generator(1))
    noise = c.noise * gaussian(c.measurements, 1, generator(2))[:, 0]
    return {"design": design, "measurements": design @ truth.flatten() + noise}


def model(config: SimpleNamespace) -> nn.Module:
    c = config.data
    made = Factors(c.rows, c.columns, config.model.rank, config.model.init_scale)
    with torch.no_grad():
        made.right.div_(config.model.imbalance)
    return made


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return half of each squared residual, [B]."""
    found = torch.mv(batch["design"], model().flatten())
    return (found - batch["measurements"]).square() / 2


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return losses(model, batch).mean()
