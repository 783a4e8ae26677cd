"""A saddle point: two players, one minimises what the other maximises; descent circles around it.

    bilinear   min over x, max over y in R^50 of mean (xᵀA_i y + a_iᵀx - b_iᵀy) + μ/2·(‖x‖² - ‖y‖²),
               A_i = A + spread·noise with entries N(0, 1/50), 200 terms, all of them in each step
    robust     min over w, max over q of Σ q_i·l_i(w) + ridge/2·‖w‖² - μ·Σ q_i·log(n·q_i): logistic
               regression of 500 digits of 7 x 7 pixels, weighted by an adversary

The maximising player's vector passes a gradient reversal, so `backward` leaves the operator
F(z) = (∇_x f, -∇_y f) in the gradients: an optimizer that descends along them descends for one
player and ascends for the other. Simultaneous descent and ascent moves away from the saddle point
or stalls; extragradient, optimistic and anchored steps reach it. A training loss means nothing
here: both players are at work on it. So line searches and methods that compare losses are left out
(the track is `game`), and weight decay moves the solution.

bilinear is measured by the distance to the exact solution, relative to the solution's norm: the
referee alone solves the linear system. robust is measured by the exact duality gap, max over q
minus min over w, relative to the start. q is a softmax of free numbers; its best answer has a
closed form, and the best w is found by Newton steps. All numbers are float64. The matrices are
drawn from a fixed seed; the trial's seed draws the start. Licence of MNIST: none stated.

Goal at mini: the distance of the tuned reference, extragradient, at three quarters of the budget,
rule `share` of conf/targets.yaml. Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from workloads.data import digits
from workloads.models.players import Bilinear, Robust

SKIPS = {
    "parts": "the parameters are the players' vectors, not parts of a network",
    "reachable": "adamw, which trains the others, does not solve it; its loss need not fall",
}


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return the terms of a split.

    bilinear: A_i [n, d, d], a_i and b_i [n, d]; for validation the solution, [1, 2, d]. robust:
    inputs [n, 49] and targets [n], for both splits.
    """
    c = config.data
    if c.kind == "robust":
        return digits.two_groups(c)
    generator = torch.Generator().manual_seed(2000)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator) / c.size**0.5

    matrices = drawn(c.size, c.size) + c.spread * drawn(c.terms, c.size, c.size)
    a, b = drawn(c.terms, c.size), drawn(c.terms, c.size)
    if split == "val":
        return {"solution": solution(matrices.mean(0), a.mean(0), b.mean(0), c.mu)[None]}
    return {"matrices": matrices, "a": a, "b": b}


def solution(matrix: Tensor, a: Tensor, b: Tensor, mu: float) -> Tensor:
    """Return the saddle point, [2, d]: Ay + a + μx = 0 and Aᵀx - b - μy = 0."""
    eye = mu * torch.eye(len(a), dtype=a.dtype)
    system = torch.cat([torch.cat([eye, matrix], dim=1), torch.cat([matrix.T, -eye], dim=1)])
    return torch.linalg.solve(system, torch.cat([-a, b])).view(2, -1)


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of terms (one solution for validation)."""
    return len(next(iter(data.values())))


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return the terms at `index`, with their numbers; if it has all, in stored order, no copy."""
    if len(index) == size(data, config):
        return data | {"number": torch.arange(len(index))}
    return {name: tensor[index] for name, tensor in data.items()} | {"number": index}


def model(config: SimpleNamespace) -> nn.Module:
    c = config.data
    if c.kind == "robust":
        return Robust(c.features, c.limit, config.model.ridge, c.mu, config.model.init_scale)
    return Bilinear(c.size, c.mu, config.model.init_scale)


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the value of every term, [B], regularisation included; backward gives F."""
    return model(batch)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch).mean()


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return squared norms of the error and of the solution, or the duality gap and its start."""
    if isinstance(model, Robust):
        gap, start = model.duality_gap(batch), model.fresh().duality_gap(batch)
        return {"gap": gap, "start": start, "count": torch.tensor(1)}
    assert isinstance(model, Bilinear)
    error = model.points() - batch["solution"][0]
    norm = batch["solution"][0].square().sum()
    return {"error": error.square().sum(), "norm": norm, "count": torch.tensor(1)}


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return distance, ‖z - z*‖/‖z*‖, or gap, relative to the gap of w = 0 and equal weights."""
    if "gap" in sums:
        return {"gap": sums["gap"] / sums["start"]}
    return {"distance": (sums["error"] / sums["norm"]) ** 0.5}
