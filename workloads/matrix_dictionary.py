"""Dictionary: learn the orthogonal atoms of sparse signals from a stream of them.

    y = D*·x,  D* orthogonal,  x sparse: each entry N(0, 1) with probability `density`, else 0
    f(D) = −mean ‖D̄ᵀy‖₃³,  D̄ = D/max(1, ‖D‖₂)

    mini    64 atoms, batches of 64, no signal twice, 4,096 parameters

Setting: Xue and Lau, "Online Orthogonal Dictionary Learning Based on Frank-Wolfe Method", arXiv
2103.01484. The l3 norm of Dᵀy is largest where D has the atoms as columns, in any order and with
any signs. D̄ is in the ball of the spectral norm, so that the loss has a bound for every optimizer;
inside the ball it is the paper's. The trial's seed draws the atoms and the signals; no licence is
needed. Model: one linear map, which starts as a random orthogonal matrix.

Metric: error, 1 − mean over true atoms of the largest |cosine| to a column of D.

Goal at mini: stated; the horizon is such that the reference, adamw, reaches it at about 60 %.
Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from harness.seeds import derive

SKIPS = {"disjoint": "validation data is the true dictionary"}


def data(config: SimpleNamespace, split: str, seed: int) -> dict[str, Tensor]:
    """Return signals, float32 [N, atoms]; validation: the true dictionary [1, atoms, atoms]."""
    c = config.data
    source = torch.Generator().manual_seed(derive(seed, "dictionary"))
    truth = torch.linalg.qr(torch.randn(c.atoms, c.atoms, generator=source)).Q
    if split == "val":
        return {"truth": truth[None]}
    shape = config.horizon * config.batch, c.atoms
    codes = torch.randn(shape, generator=source)
    codes *= torch.rand(shape, generator=source) < c.density
    return {"signals": codes @ truth.T}


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of signals (one dictionary for validation)."""
    return len(data["truth"] if "truth" in data else data["signals"])


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return the signals with these numbers, [B, atoms]."""
    return {name: tensor[index] for name, tensor in data.items()}


def model(config: SimpleNamespace) -> nn.Module:
    """Return the map y → Dᵀy."""
    made = nn.Sequential(nn.Linear(config.data.atoms, config.data.atoms, bias=False))
    nn.init.orthogonal_(made[0].weight)
    return made


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return −‖D̄ᵀy‖₃³ of each signal, [B]."""
    norm = torch.linalg.matrix_norm(model[0].weight, 2).clamp(min=1.0)
    return -(model(batch["signals"]) / norm).abs().pow(3).sum(dim=1)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return losses(model, batch).mean()


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the sum over true atoms of the largest |cosine| to a column, and their number."""
    rows = nn.functional.normalize(model[0].weight, dim=1)
    found = (rows @ batch["truth"][0]).abs().max(dim=0).values
    return {"found": found.double().sum(), "atoms": torch.tensor(len(found))}


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return error, 1 less the mean of the cosines."""
    return {"error": 1 - sums["found"] / sums["atoms"]}
