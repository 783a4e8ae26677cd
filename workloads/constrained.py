"""Logistic regression whose weights must stay in a set: an l1 ball, or an affine space.

    minimise f(w) = mean log(1 + exp(-y_i·x_iᵀw)) + ridge/2·‖w‖²
    l1 ball    subject to ‖w‖₁ ≤ radius: a sparse solution at the edge
    equality   subject to Cw = 1: the mean score of each of the digits 0 to 4 is 1

    mini    500 MNIST digits of 14 x 14 pixels, 0 to 4 against 5 to 9, 196 parameters, full batch

The data are logreg's, in float64. The set is offered as a projection (task.composite.prox),
and the ball as a linear minimisation oracle (task.composite.lmo). A method that knows of neither
gets an exact penalty: the loss is f(w) + penalty·violation, with the penalty above the multipliers,
so its minimiser is that of the constrained problem. Licence of MNIST: none stated.

The referee measures both conditions of the goal on the weights that it was handed: violation, which
is max(0, ‖w‖₁ - radius)/radius or max |Cw - 1|, and gap = (loss - f*)/(f(0) - f*). It has f*, from
10^-13 accurate projected gradient steps; the runner does not. The start is random and small.

Goal at mini: both bounds are stated; the horizon is what is chosen, so that the tuned reference, a
pairwise frank_wolfe, meets them at two thirds of it. Budget: `horizon` steps.
"""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import UserError, nearest
from workloads import logreg
from workloads.data import convex, digits
from workloads.logreg import FLOOR, inputs, logistic, size, smooth
from workloads.models.linear import LinearScore

__all__ = ["inputs", "size", "smooth"]

SKIPS = {"disjoint": "the objective itself is evaluated, on the examples that it is a mean of"}
SETS = ("l1_ball", "equality")
# Digits whose mean score is fixed in the set "equality".
FIXED = (0, 1, 2, 3, 4)


class Constrained(LinearScore):
    """A linear score without bias, and the numbers of the set that its weights must stay in."""

    def __init__(self, config: SimpleNamespace):
        numbers = config.model
        if numbers.set not in SETS:
            raise UserError(f"model.set={numbers.set!r} is unknown", nearest(numbers.set, SETS))
        super().__init__(config.data.features, numbers.ridge, 0.0, numbers.init_scale, False)
        self.set, self.radius, self.penalty = numbers.set, numbers.radius, numbers.penalty


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return inputs [n, d], targets [n], rows C [5, d]; for validation f* as well, [1]."""
    made = digits.two_groups(config.data)
    made["rows"] = digits.means(config.data, FIXED)
    return made | {"optimum": optimum(made, config)} if split == "val" else made


def optimum(data: dict[str, Tensor], config: SimpleNamespace) -> Tensor:
    """Return the minimum of f over the set, float64 [1]."""
    rows, ridge = data["inputs"], config.model.ridge

    def function(w: Tensor) -> Tensor:
        return -F.logsigmoid(data["targets"] * (rows @ w)).mean() + ridge / 2 * w.square().sum()

    def project(v: Tensor, step: float) -> Tensor:
        return prox(data, [v[None]], step, config)[0][0]

    start = torch.zeros(rows.shape[1], dtype=torch.float64)
    constant = logreg.smoothness(rows) + ridge
    return function(convex.minimise(function, project, start, constant, ridge))[None]


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs [B, d], targets [B], and C for every example [B, 5, d], without a copy."""
    made = logreg.batch(data, index, config)
    return made | {"rows": data["rows"].expand(len(index), -1, -1)}


def model(config: SimpleNamespace) -> nn.Module:
    return Constrained(config)


def outside(model: Constrained, batch: dict[str, Tensor]) -> Tensor:
    """Return by how much w is outside of the set, one number or one for each equation."""
    w = model.weight[0]
    if model.set == "l1_ball":
        return (w.abs().sum() - model.radius).clamp(min=0)[None]
    return (batch["rows"][0] @ w - 1).abs()


def losses(model: Constrained, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of every example, [B], ridge and penalty included."""
    extra = model.squares() + model.penalty * outside(model, batch).sum()
    return logistic(model, batch) + extra


def loss(model: Constrained, batch: dict[str, Tensor]) -> Tensor:
    return losses(model, batch).mean()


def prox(
    data: dict[str, Tensor], values: list[Tensor], step: float, config: SimpleNamespace
) -> list[Tensor]:
    """Return the nearest point of the set, whatever the step."""
    (w,) = values
    if config.model.set == "l1_ball":
        return [convex.onto_l1_ball(w, config.model.radius)]
    rows = data["rows"]
    excess = torch.linalg.solve(rows @ rows.T, rows @ w[0] - 1)
    return [w - excess @ rows]


def lmo(data: dict[str, Tensor], directions: list[Tensor], config: SimpleNamespace) -> list[Tensor]:
    """Return the vertex of the ball that minimises <direction, z>: ±radius at one coordinate."""
    if config.model.set != "l1_ball":
        raise UserError(
            f"constrained with the set {config.model.set} offers no lmo(): it is not bounded",
            "the l1 ball",
            "leave variant= out",
        )
    (direction,) = directions
    place = direction.abs().argmax()
    vertex = torch.zeros_like(direction)
    vertex.view(-1)[place] = -config.model.radius * direction.view(-1)[place].sign()
    return [vertex]


def metric(model: Constrained, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return sums of losses, of f*, of f(0) and of the violation over the batch, and examples."""
    count = len(batch["targets"])
    excess = outside(model, batch).max() / (model.radius if model.set == "l1_ball" else 1.0)
    return {
        "loss": losses(model, batch).sum(),
        "optimum": batch["optimum"].sum(),
        "start": torch.tensor(count * math.log(2.0), dtype=torch.float64),
        "violation": count * excess,
        "count": torch.tensor(count),
    }


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return gap, (loss - f*)/(f(0) - f*), and violation."""
    above, scale = sums["loss"] - sums["optimum"], sums["start"] - sums["optimum"]
    gap = max(above / scale, FLOOR) if math.isfinite(above) else above
    return {"gap": gap, "violation": sums["violation"] / sums["count"]}
