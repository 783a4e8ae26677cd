"""Robust matrix sensing: some measurements are grossly wrong, and the loss is absolute.

    y_i = <A_i, M> + s_i,  s_i = 0 but for a share of outliers,  f(X) = mean |<A_i, XXᵀ> - y_i| / 2

    mini    100 x 100 of rank 3, 4,000 measurements, a tenth of them outliers
    base    150 x 150 of rank 3, 4,500 measurements (408 MB)

Setting: Ma, Fattahi, "Global convergence of sub-gradient method for robust matrix recovery",
arXiv 2202.08788; outliers as in Tong, Ma, Chi, arXiv 2010.13364. The rest is as in matrix_sensing,
also how goal and budget were set; the reference is subgm.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from workloads import matrix_sensing
from workloads.matrix_sensing import batch, metric, model, residuals, score, size

__all__ = ["batch", "metric", "model", "score", "size"]


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return matrix_sensing's data with magnitude·max|y|·U(-1, 1) added to some measurements."""
    found = matrix_sensing.data(config, split)
    if split == "val":
        return found
    clean, source = found["measurements"], matrix_sensing.generator(3)
    hit = torch.randperm(len(clean), generator=source)[: round(config.data.outliers * len(clean))]
    drawn = 2 * torch.rand(len(hit), dtype=clean.dtype, generator=source) - 1
    dirty = clean.index_add(0, hit, config.data.magnitude * clean.abs().max() * drawn)
    return found | {"measurements": dirty}


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return half of each absolute residual, [B]; subgradient: A*(sign(residuals)) X / m."""
    return residuals(model, batch).abs() / 2


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return losses(model, batch).mean()
