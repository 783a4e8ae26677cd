"""Physics-informed network: the obstacle problem, whose conditions are inequalities.

    −u'' ≥ 0,  u ≥ ψ,  u''·(u − ψ) = 0 on [0, 1],  u = 0 at the ends,  ψ = h − 8h(x − 1/2)²

    mini    h 0.3, 2 x 32 tanh units, 200 points a step

A string over a bump: it lies on ψ between a and 1 − a, a = √(1/8), and is straight elsewhere, a
tangent of ψ. u'' jumps at a. The trial's seed draws h (within a third). Terms: the product
(residual), and what is left of the two inequalities (concave, above).

Metrics: relative_error as in the other physics workloads; violation, the 16-norm of max(0, ψ − u)
over the hidden points, at least the largest one. Data: collocation points drawn from the trial's
seed; no licence is needed.

Measured at mini with three seeds, the best of three points each: sa_pinn 0.007 to 0.011, relobralo
0.019 to 0.024, softadapt 0.016 to 0.029, annealed_terms 0.04 to 0.10, config_grad 0.04 to 0.43.

Goal at mini: stated; the horizon is such that the reference, adam, reaches it. Budget: `horizon`
reference steps.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from harness.seeds import derive
from workloads.models.curve import Curve
from workloads.pde import collocation
from workloads.pde.collocation import batch, batch_of, size

__all__ = ["batch", "batch_of", "size"]

CONTACT, POWER = 0.125**0.5, 16


def box(config: SimpleNamespace) -> Tensor:
    """Return the ends of the line, [2, 1]."""
    return torch.tensor([[0.0], [1.0]])


def obstacle(x: Tensor, height: Tensor | float) -> Tensor:
    return height - 8 * height * (x - 0.5) ** 2


def solution(x: Tensor, height: float) -> Tensor:
    """Return u: ψ where the string touches it, else the tangent through the nearer end."""
    end = torch.minimum(x, 1 - x)
    return torch.where(end < CONTACT, 16 * height * (0.5 - CONTACT) * end, obstacle(x, height))


def data(config: SimpleNamespace, split: str, seed: int) -> dict[str, Tensor]:
    """Return the pool of points and the ends; validation: points, values of u and of ψ."""
    height, _ = collocation.draw(config, seed, config.data.height)
    if split == "val":
        x = (torch.arange(config.data.grid).double() + 0.5) / config.data.grid
        found = {"points": x[:, None], "values": solution(x, height), "bump": obstacle(x, height)}
        return {name: tensor.float() for name, tensor in found.items()}
    source = torch.Generator().manual_seed(derive(seed, "points"))
    return {
        "points": torch.rand(config.data.points, 1, generator=source),
        "coefficient": torch.tensor(height, dtype=torch.float32),
        "problem": torch.tensor(derive(seed, f"problem {height}")),
        "boundary": torch.tensor([[0.0], [1.0]]),
        "boundary_values": torch.zeros(2),
        "boundary_scale": torch.tensor(config.loss.boundary**0.5),
        "inequality_scale": torch.tensor(config.loss.inequality**0.5),
    }


def model(config: SimpleNamespace) -> nn.Module:
    return Curve(**vars(config.model))


def terms(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return residual, concave and above [B], and boundary, scaled."""
    points, scale = batch["points"], batch["inequality_scale"]
    u, second = model.curvature(points)
    over = u - obstacle(points[:, 0], collocation.coefficient(batch))
    return {
        "residual": second * over,
        "concave": scale * second.relu(),
        "above": scale * (-over).relu(),
    } | collocation.conditions(model, batch)


loss, losses = collocation.objective(terms)


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return collocation's sums, and the sum of max(0, ψ − u) to the power 16."""
    below = (batch["bump"] - model(batch["points"])).double().relu()
    return collocation.metric(model, batch) | {"below": below.pow(POWER).sum()}


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return relative_error, and violation, which is at least the largest max(0, ψ − u)."""
    return collocation.score(sums) | {"violation": sums["below"] ** (1 / POWER)}
