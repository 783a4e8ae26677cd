"""Logistic regression: a smooth, strongly convex problem of real digits, in float64.

    f(w) = mean log(1 + exp(-y_i·(x_i·w + b))) + ridge/2·‖(w, b)‖² + lasso·‖w‖₁

    mini    4,000 MNIST digits, 0 to 4 against 5 to 9, 785 parameters

The images are centred and scaled to norm 10. The Lipschitz constant of the mean gradient is 2.46,
that of one example's 25.3, and the condition number 246. Theory of convex optimisation is about
this problem: accelerated, variance-reduced and quasi-Newton methods converge linearly on it, where
stochastic gradients with a decaying step do not. Licence of MNIST: none stated.

An example is one digit. The loss's parts are offered apart, to methods that treat ‖w‖₁ by its
proximal operator. What is evaluated is the training objective itself, above its minimum and
relative to the start: gap = (f(w) - f*)/(f(0) - f*). The referee has f*, from 10^-13 accurate
proximal gradient steps; the runner does not. For `separable`, f* is 0, and the goal is that each
example is on its side (accuracy).

Goal at mini: the gap of the tuned reference, sgd, at three quarters of the budget, rule
`share` of conf/targets.yaml. Budget: `horizon` reference steps.
"""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.data import convex, digits
from workloads.models.linear import LinearScore

SKIPS = {"disjoint": "the objective itself is evaluated, on the examples that it is a mean of"}
# Below this the gap is rounding.
FLOOR = 1e-15


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return inputs, float64 [n, 784], and targets [n], 1 or -1; for validation f* as well, [1]."""
    made = digits.two_groups(config.data)
    return made | {"optimum": optimum(made, config)} if split == "val" else made


def optimum(data: dict[str, Tensor], config: SimpleNamespace) -> Tensor:
    """Return the minimum of the objective, float64 [1]; 0 where nothing keeps w bounded."""
    ridge, lasso = config.model.ridge, config.model.lasso
    if not ridge:
        return torch.zeros(1, dtype=torch.float64)
    ones = torch.ones(len(data["inputs"]), 1, dtype=torch.float64)
    rows = torch.cat([data["inputs"], ones], dim=1)

    def smooth(w: Tensor) -> Tensor:
        return -F.logsigmoid(data["targets"] * (rows @ w)).mean() + ridge / 2 * w.square().sum()

    def prox(v: Tensor, step: float) -> Tensor:
        return torch.cat([convex.soft_threshold(v[:-1], step * lasso), v[-1:]])

    start = torch.zeros(rows.shape[1], dtype=torch.float64)
    w = convex.minimise(smooth, prox, start, smoothness(rows) + ridge, ridge)
    return (smooth(w) + lasso * w[:-1].abs().sum())[None]


def smoothness(rows: Tensor) -> float:
    """Return the Lipschitz constant of the mean logistic loss's gradient: λ_max(AᵀA)/(4n)."""
    return float(torch.linalg.eigvalsh(rows.T @ rows)[-1]) / (4 * len(rows))


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of digits."""
    return len(data["targets"])


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs [B, 784] and targets [B]; if the batch has all, in stored order, no copy."""
    whole = len(index) == len(data["targets"])
    names = ("inputs", "targets")
    made = {name: data[name] if whole else data[name][index] for name in names}
    if "optimum" in data:
        made["optimum"] = data["optimum"].expand(len(index))
    return made


def model(config: SimpleNamespace) -> nn.Module:
    return LinearScore(config.data.features, config.model.ridge, config.model.lasso)


def inputs(batch: dict[str, Tensor]) -> Tensor:
    """Return the model's input."""
    return batch["inputs"]


def logistic(model: LinearScore, batch: dict[str, Tensor]) -> Tensor:
    """Return log(1 + exp(-y·score)) of every example, [B]."""
    return -F.logsigmoid(batch["targets"] * model(batch["inputs"]))


def smooth(model: LinearScore, batch: dict[str, Tensor]) -> Tensor:
    """Return the differentiable part of the loss."""
    return logistic(model, batch).mean() + model.squares()


def losses(model: LinearScore, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of every example, [B], the penalties included."""
    return logistic(model, batch) + model.squares() + model.lasso * model.weight.abs().sum()


def loss(model: LinearScore, batch: dict[str, Tensor]) -> Tensor:
    return losses(model, batch).mean()


def prox(
    data: dict[str, Tensor], values: list[Tensor], step: float, config: SimpleNamespace
) -> list[Tensor]:
    """Return the proximal operator of step·lasso·‖w‖₁ at (w, b): soft thresholding of w alone."""
    w, b = values
    return [convex.soft_threshold(w, step * config.model.lasso), b.clone()]


def sample(model: LinearScore, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Return the loss against labels drawn from the model's own probabilities."""
    scores = model(batch["inputs"])
    share = scores.detach().sigmoid().to(generator.device)
    drawn = 2 * torch.bernoulli(share, generator=generator).to(scores) - 1
    return -F.logsigmoid(drawn * scores).mean() + model.squares()


def metric(model: LinearScore, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return sums of losses, of f* and of f(0) over the batch, correct answers, and examples."""
    count = len(batch["targets"])
    return {
        "loss": losses(model, batch).sum(),
        "optimum": batch["optimum"].sum(),
        "start": torch.tensor(count * math.log(2.0), dtype=torch.float64),
        "right": (batch["targets"] * model(batch["inputs"]) > 0).sum(),
        "count": torch.tensor(count),
    }


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return gap, (f(w) - f*)/(f(0) - f*), and accuracy on the training examples."""
    above, scale = sums["loss"] - sums["optimum"], sums["start"] - sums["optimum"]
    gap = max(above / scale, FLOOR) if math.isfinite(above) else above
    return {"gap": gap, "accuracy": sums["right"] / sums["count"]}
