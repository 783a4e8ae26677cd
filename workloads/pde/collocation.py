"""Shared parts of physics-informed workloads: points, conditions, hidden grid and metric.

An example is a collocation point (x, t), or (x, y). Training data is a pool of such points, drawn
uniformly in the box, with the condition points and their values, and the equation's coefficient,
which the trial's seed draws. A batch has all of these except the coefficient. A submission that
knew the coefficient could solve the equation by another method, so it acts through the residual
alone. Validation data is a grid of points with the reference solution. No submission gets it.
"""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from harness.derivatives import mean_squares
from harness.seeds import derive

Terms = Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]

# The coefficients of the problems that this process has made batches of. The key is the problem's
# number in a batch.
_coefficients: dict[int, Tensor] = {}


def draw(config: SimpleNamespace, seed: int, centre: float) -> tuple[float, float]:
    """Return a coefficient, centre·(1 + data.spread·U(-1, 1)), and an angle, both by the seed."""
    source = np.random.default_rng(derive(seed, "coefficients"))
    return centre * (1 + config.data.spread * source.uniform(-1, 1)), source.uniform(0, 2 * np.pi)


def spread(low: float, high: float, count: int) -> np.ndarray:
    """Return the midpoints of `count` equal parts of an interval, float64 [count]."""
    return low + (high - low) * (np.arange(count) + 0.5) / count


def training(
    config: SimpleNamespace, seed: int, box: Tensor, coefficient: float, **conditions
) -> dict[str, Tensor]:
    """Return the pool [data.points, 2], the conditions, float32, the coefficient and its number.

    A condition is `initial` or `boundary`: points [n, 2], with the required values of u as
    `<name>_values` [n]. Without values, u must agree on the two halves of the points.
    """
    source = torch.Generator().manual_seed(derive(seed, "points"))
    pool = box[0] + (box[1] - box[0]) * torch.rand(config.data.points, 2, generator=source)
    found = {
        "points": pool,
        "coefficient": torch.tensor(coefficient),
        "problem": torch.tensor(derive(seed, f"problem {coefficient}")),
    }
    for name, value in conditions.items():
        found[name] = torch.as_tensor(value, dtype=torch.float32)
        if not name.endswith("_values"):
            found[f"{name}_scale"] = torch.tensor(getattr(config.loss, name) ** 0.5)
    return found


def coefficient(batch: dict[str, Tensor]) -> Tensor:
    """Return the coefficient of a batch's equation, 0-dim, for use in its residual."""
    return _coefficients[int(batch["problem"])].to(batch["points"])


def line(first: np.ndarray | float, second: np.ndarray | float) -> np.ndarray:
    """Return points [n, 2] with these coordinates; a number is the same for all points."""
    return np.stack(np.broadcast_arrays(first, second), axis=1)


def conditions(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return scaled errors [n] of the batch's initial and boundary conditions, by one pass."""
    names = [name for name in ("initial", "boundary") if name in batch]
    found = model(torch.cat([batch[name] for name in names]))
    terms = {}
    for name, u in zip(names, found.split([len(batch[name]) for name in names]), strict=True):
        if f"{name}_values" in batch:
            error = u - batch[f"{name}_values"]
        else:
            error = u[: len(u) // 2] - u[len(u) // 2 :]
        terms[name] = error * batch[f"{name}_scale"]
    return terms


def hidden(
    config: SimpleNamespace, box: Tensor, solution: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> dict[str, Tensor]:
    """Return the grid's points [N, 2] and the solution there [N]; solution(x, t) -> [t, x]."""
    low, high = box.tolist()
    x, t = (spread(*side) for side in zip(low, high, config.data.grid, strict=True))
    second, first = np.meshgrid(t, x, indexing="ij")
    points = np.stack([first.ravel(), second.ravel()], axis=1)
    values = solution(x, t).ravel()
    return {"points": torch.tensor(points).float(), "values": torch.tensor(values).float()}


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of points: of the pool, or of the hidden grid."""
    return len(data["points"])


def batch_of(data: dict[str, Tensor], points: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return a training batch at these points [B, 2], with all conditions."""
    _coefficients[int(data["problem"])] = data["coefficient"]
    shown = {k: v for k, v in data.items() if k not in ("points", "coefficient")}
    return {"points": points} | shown


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return points of the pool with all conditions, or points of the grid with their values."""
    if "values" in data:
        return {name: tensor[index] for name, tensor in data.items()}
    return batch_of(data, data["points"][index], config)


def objective(terms: Terms) -> tuple[Callable, Callable]:
    """Return loss(model, batch), 0-dim, and losses(model, batch), per point [B], of these terms.

    The loss is the sum of the terms' mean squares. The loss of a point is its squared residual plus
    the conditions' loss, which is the same for all points.
    """

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return mean_squares(terms(model, batch))

    def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        found = terms(model, batch)
        residual = found.pop("residual")
        return residual.square() + sum(v.square().mean() for v in found.values())

    return loss, losses


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the sums of the squared error and of the squared reference."""
    error = model(batch["points"]) - batch["values"]
    count = torch.tensor(len(error))
    return {
        "error": error.double().square().sum(),
        "norm": batch["values"].double().square().sum(),
        "count": count,
    }


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return relative_error, ‖u - reference‖₂ / ‖reference‖₂ on the hidden grid."""
    return {"relative_error": (sums["error"] / sums["norm"]) ** 0.5}
