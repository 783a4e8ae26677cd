"""Matrix completion: recover an incoherent low-rank matrix from some of its entries.

    M = U diag(1 ... 1/kappa) Vᵀ,  f(L, R) = Σ_seen (LRᵀ - M)²_ij / (2·share)

    mini    800 x 800 of rank 5, a fifth of the entries seen, factors of rank 5
    base    1000 x 1000 of rank 10, a fifth of the entries seen

Setting: Tong, Ma, Chi, arXiv 2005.08898 (their code: n = 1000, r = 10, p = 0.2); alternating
minimisation: Gu, Song, Yin, Zhang, arXiv 2302.11068. The data is drawn from a fixed seed, in
float64, and needs no licence. An example is one row of the matrix with the mask of its seen
entries. Validation data is the matrix itself, row by row.

Goal at mini: a relative error stated after the literature, rule `stated` of conf/targets.yaml. The
horizon is such that the tuned reference, gd, meets it within half to nine tenths of the budget. The
goal at base is provisional. Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from workloads.matrix_sensing import generator, orthonormal, score, spectrum
from workloads.models.factors import Factors

__all__ = ["score"]


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return row [n], values [n, columns] (0 if unseen), seen (0 or 1); validation: row, truth."""
    c = config.data
    source = generator(0)
    u, v = orthonormal(c.rows, c.rank, source), orthonormal(c.columns, c.rank, source)
    truth, row = (u * spectrum(c.rank, c.kappa)) @ v.T, torch.arange(c.rows)
    if split == "val":
        return {"row": row, "truth": truth}
    seen = (torch.rand(truth.shape, generator=generator(1)) < c.share).to(truth)
    return {"row": row, "values": truth * seen, "seen": seen}


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of rows."""
    return len(data["row"])


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return the rows at `index`; if it has all of them, in stored order and without a copy."""
    if len(index) == size(data, config):
        chosen = dict(data)
    else:
        chosen = {name: tensor[index] for name, tensor in data.items()}
    # Each row has its share of f, so that the mean over the rows is f.
    if "seen" in chosen:
        weight = torch.full_like(chosen["row"], config.data.rows, dtype=torch.float64)
        chosen["weight"] = weight / (2 * config.data.share)
    return chosen


def model(config: SimpleNamespace) -> nn.Module:
    c = config.data
    return Factors(c.rows, c.columns, config.model.rank, config.model.init_scale)


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return each row's weighted sum of squares over its seen entries, [B]."""
    rows = model.left.index_select(0, batch["row"]) @ model.right.T
    error = torch.addcmul(batch["values"], rows, batch["seen"], value=-1)
    return error.square().sum(1) * batch["weight"]


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return losses(model, batch).mean()


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the squared Frobenius norms of the rows' error and of the rows."""
    rows = model.left.index_select(0, batch["row"]) @ model.right.T
    error, norm = (rows - batch["truth"]).square().sum(), batch["truth"].square().sum()
    return {"error": error, "norm": norm, "count": torch.tensor(len(rows))}
