"""Matrix sensing: recover a symmetric low-rank matrix from Gaussian measurements of it.

    y_i = <A_i, M> + noise,  M = U diag(1 ... 1/kappa) Uᵀ,  f(X) = mean (<A_i, XXᵀ> - y_i)² / 4

    mini    80 x 80 of rank 3, 2,400 measurements, a factor of 10 columns (over-parameterised)
    base    150 x 150 of rank 3, 4,500 measurements (408 MB)

Setting: Xu, Shen, Chi, Ma, arXiv 2302.01186; Zhang, Fattahi, Zhang, NeurIPS 2021 (PrecGD). The data
is drawn from a fixed seed, in float64, and needs no licence; the trial's seed draws the start. An
example is one measurement. `design` has the upper triangles of the symmetric A_i row by row,
off-diagonal entries times √2, so that <A, S> is a dot product of packed vectors; its entries are
N(0, 1). Validation data is the matrix itself; the metric is the relative Frobenius error.

Goal at mini: a relative error stated after the literature, rule `stated` of conf/targets.yaml. The
horizon is such that the tuned reference, gd, meets it within half to nine tenths of the budget. The
goal at base is provisional. Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from workloads.models.factors import Factors


def generator(stream: int) -> torch.Generator:
    """Return a fixed, independent stream: 0 the matrix, 1 the design, 2 noise, 3 outliers."""
    return torch.Generator().manual_seed(1000 + stream)


def spectrum(rank: int, kappa: float) -> Tensor:
    """Return the matrix's singular values: from 1 down to 1/kappa at even distances."""
    return torch.linspace(1.0, 1.0 / kappa, rank, dtype=torch.float64)


def orthonormal(rows: int, columns: int, source: torch.Generator) -> Tensor:
    """Return a random matrix with orthonormal columns."""
    return torch.linalg.qr(gaussian(rows, columns, source)).Q


def gaussian(rows: int, columns: int, source: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=source)


def pack(matrix: Tensor) -> Tensor:
    """Return a symmetric matrix's upper triangle as a vector, off-diagonal entries times √2."""
    n = len(matrix)
    rows, columns = torch.triu_indices(n, n)
    entries = matrix.flatten().index_select(0, rows * n + columns)
    return torch.where(rows == columns, entries, 2.0**0.5 * entries)


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return design, float64 [m, n(n+1)/2], and measurements [m]; validation: matrix [1, n, n]."""
    c = config.data
    u = orthonormal(c.size, c.rank, generator(0))
    truth = (u * spectrum(c.rank, c.kappa)) @ u.T
    if split == "val":
        return {"truth": truth[None]}
    design = gaussian(c.measurements, c.size * (c.size + 1) // 2, generator(1))
    noise = c.noise * gaussian(c.measurements, 1, generator(2))[:, 0]
    return {"design": design, "measurements": design @ pack(truth) + noise}


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of measurements (one matrix for validation)."""
    return len(data["truth"] if "truth" in data else data["design"])


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return the rows at `index`; if it has all of them, in stored order and without a copy."""
    if len(index) == size(data, config):
        return dict(data)
    return {name: tensor[index] for name, tensor in data.items()}


def model(config: SimpleNamespace) -> nn.Module:
    return Factors(config.data.size, None, config.model.rank, config.model.init_scale)


def residuals(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return <A_i, XXᵀ> - y_i, [B]."""
    return torch.mv(batch["design"], pack(model())) - batch["measurements"]


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return a quarter of each squared residual, [B]; gradient: A*(residuals) X / m."""
    return residuals(model, batch).square() / 4


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return losses(model, batch).mean()


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the squared Frobenius norms of the error and of the true matrix."""
    truth = batch["truth"][0]
    error, norm = (model() - truth).square().sum(), truth.square().sum()
    return {"error": error, "norm": norm, "count": torch.tensor(1)}


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return relative_error, ‖XXᵀ - M‖ / ‖M‖."""
    return {"relative_error": (sums["error"] / sums["norm"]) ** 0.5}
