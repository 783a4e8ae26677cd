"""A two-layer ReLU network fitted to 600 digits: not convex, and yet equal to a convex problem.

    f(U, a) = mean (Σ_j a_j·max(0, u_jᵀx_i) - y_i)²/2 + ridge/2·(‖U‖² + ‖a‖²)

    mini    600 MNIST digits, 0 to 4 (y = 1) against 5 to 9 (y = -1), as 20 principal components and
            a constant, 100 units, 2,200 parameters, float64, all digits in each step

Over all activation patterns D of the units the problem is a group lasso with linear constraints
(Pilanci and Ergen, arXiv 2002.10553), which has one minimum; convex_admm solves it over sampled
patterns and writes the network that belongs to the solution. Every optimizer can descend on the
network itself. The start is Gaussian, of the size 1/√fan-in. Licence of MNIST: none stated.

What is evaluated is the training objective itself, ridge included, relative to that of the network
that is zero. So there is no held-out data.

Goal at mini: the objective of the tuned reference (adam) at three quarters of the budget, rule
`share` of conf/targets.yaml. Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from workloads.data import digits
from workloads.models.two_layer import TwoLayer

SKIPS = {"disjoint": "the objective itself is evaluated, on the examples that it is a mean of"}


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return inputs, float64 [n, features], the last one 1, and targets [n], 1 or -1."""
    c = config.data
    made = digits.components(c.features - 1, held_out=False)
    chosen = torch.arange(c.limit) * len(made["targets"]) // c.limit
    inputs, labels = made["inputs"][chosen], made["targets"][chosen]
    ones = torch.ones(c.limit, 1, dtype=torch.float64)
    signs = torch.where(labels <= 4, 1.0, -1.0).double()
    return {"inputs": torch.cat([inputs, ones], dim=1), "targets": signs}


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of digits."""
    return len(data["targets"])


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs [B, features] and targets [B]; if it has all, in stored order, no copy."""
    whole = len(index) == len(data["targets"])
    return {name: data[name] if whole else data[name][index] for name in ("inputs", "targets")}


def model(config: SimpleNamespace) -> nn.Module:
    return TwoLayer(config.data.features, config.model.width, config.model.ridge)


def inputs(batch: dict[str, Tensor]) -> Tensor:
    """Return the model's input."""
    return batch["inputs"]


def losses(model: TwoLayer, batch: dict[str, Tensor]) -> Tensor:
    """Return half of each squared error, [B], ridge included."""
    return (model(batch["inputs"]) - batch["targets"]).square() / 2 + model.squares()


def loss(model: TwoLayer, batch: dict[str, Tensor]) -> Tensor:
    return losses(model, batch).mean()


def metric(model: TwoLayer, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return sums over the batch of losses and of those of the zero network, and examples."""
    zero = batch["targets"].square().sum() / 2
    count = torch.tensor(len(batch["targets"]))
    return {"loss": losses(model, batch).sum(), "zero": zero, "count": count}


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return objective, f(U, a)/f(0, 0)."""
    return {"objective": sums["loss"] / sums["zero"]}
