"""Operator learning: one step of Burgers' equation from any initial state, and ten in a row.

    u_t + u·u_x = 0.01·u_xx on a circle of length 1,  u(t) → u(t + 0.1)

    mini    512 initial states on 128 points, a Fourier neural operator of 59,017 parameters

Setting: Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations",
arXiv 2010.08895; autoregressive steps and their error as in Hao et al., DPOT, arXiv 2403.03542.
Initial states are random Fourier series of a smoothness that is drawn for each, with largest value
1; the solver is fourth-order exponential time differencing with twice the points. An example is a
pair of states 0.1 apart, from time 0 to 1. The data are drawn from a fixed seed and need no
licence.

Loss: the mean relative L2 error of one step. Metric: relative_error of ten steps in a row, each
from the one before, on held-out initial states.
Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from workloads.models.fourier import Operator
from workloads.pde.spectral import etdrk4

# Time between two states, and their number in a trajectory after the first.
APART, STATES = 0.1, 10
STEP = 4e-3


def initial(count: int, points: int, source: np.random.Generator) -> np.ndarray:
    """Return random periodic functions [count, points] of mean 0 and largest value 1."""
    k = np.arange(points // 2 + 1)
    smooth = source.uniform(1.0, 2.5, (count, 1))
    size = np.where(k == 0, 0.0, (k**2.0 + 9.0) ** -smooth)
    drawn = source.standard_normal((2, count, len(k)))
    u = np.fft.irfft(size * (drawn[0] + 1j * drawn[1]), points)
    return u / np.abs(u).max(axis=1, keepdims=True)


def trajectories(start: np.ndarray, viscosity: float) -> np.ndarray:
    """Return the states at times 0, 0.1, ..., 1 of initial values [N, points]: [N, 11, points]."""
    points = start.shape[1]
    k = 2 * np.pi * np.arange(points // 2 + 1)
    kept = k <= 2 / 3 * k[-1]  # quadratic terms alias above

    def nonlinear(v: np.ndarray) -> np.ndarray:
        return -0.5j * k * kept * np.fft.rfft(np.fft.irfft(v * kept, points) ** 2)

    times = APART * np.arange(STATES + 1)
    found = etdrk4(np.fft.rfft(start), -viscosity * k**2, nonlinear, times, STEP)
    return np.fft.irfft(found, points).transpose(1, 0, 2)


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return states, float32 [N, 11, points]."""
    c = config.data
    count, seed = (c.train, 0) if split != "val" else (c.validation, 1)
    start = initial(count, 2 * c.points, np.random.default_rng([20100889, seed]))
    return {"states": torch.from_numpy(trajectories(start, c.viscosity)[:, :, ::2]).float()}


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of pairs of states."""
    return len(data["states"]) * STATES


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs and targets [B, points]; and end, the state after ten steps from time 0."""
    states, place = data["states"][index // STATES], index % STATES
    rows = torch.arange(len(index), device=index.device)
    return {
        "inputs": states[rows, place],
        "targets": states[rows, place + 1],
        "start": states[:, 0],
        "end": states[:, -1],
        "first": (place == 0).float(),
    }


def model(config: SimpleNamespace) -> nn.Module:
    return Operator(config.model)


def inputs(batch: dict[str, Tensor]) -> Tensor:
    """Return the model's input."""
    return batch["inputs"]


def relative(found: Tensor, exact: Tensor) -> Tensor:
    """Return the relative L2 error of each function, [B]."""
    return (found - exact).norm(dim=1) / exact.norm(dim=1).clamp(min=1e-6)


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the relative error of each step, [B]."""
    return relative(model(batch["inputs"]), batch["targets"])


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return losses(model, batch).mean()


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the errors of one step, and of ten from time 0, once for each trajectory."""
    chosen = batch["first"] > 0
    u = batch["start"][chosen]
    for _ in range(STATES):
        u = model(u)
    far = relative(u, batch["end"][chosen])
    one = losses(model, batch)
    count = torch.tensor(len(one))
    return {
        "far": far.double().sum(), "trajectories": torch.tensor(len(far)),
        "one": one.double().sum(), "count": count,
    }  # fmt: skip


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return relative_error after ten steps, and one_step_error."""
    far = sums["far"] / max(sums["trajectories"], 1)
    return {"relative_error": far, "one_step_error": sums["one"] / sums["count"]}
