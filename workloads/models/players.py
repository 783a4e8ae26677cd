"""Two players' vectors and the function that one minimises and the other maximises, in float64."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def reversed_gradient(values: Tensor) -> Tensor:
    """Return the same values; gradients pass with the other sign."""
    return 2 * values.detach() - values


def _start(count: int, scale: float) -> nn.Parameter:
    return nn.Parameter(scale * torch.randn(count, dtype=torch.float64))


class Bilinear(nn.Module):
    """f = mean (xᵀA_i y + a_iᵀx - b_iᵀy) + μ/2·(‖x‖² - ‖y‖²).

    Args:
        size: length of x and of y.
        mu: factor of the squares.
        scale: standard deviation of the start.
    """

    def __init__(self, size: int, mu: float, scale: float):
        super().__init__()
        self.x, self.y, self.mu = _start(size, scale), _start(size, scale), mu

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the value of every term, [B]; y's gradient has the other sign."""
        x, y = self.x, reversed_gradient(self.y)
        mixed = (batch["matrices"] @ y) @ x
        squares = self.mu / 2 * (x.square().sum() - y.square().sum())
        return mixed + batch["a"] @ x - batch["b"] @ y + squares

    def points(self) -> Tensor:
        """Return both players' vectors, [2, size]."""
        return torch.stack([self.x, self.y])


class Robust(nn.Module):
    """f = Σ q_i·l_i(w) + ridge/2·‖w‖² - μ·Σ q_i·log(n·q_i), q = softmax(θ), l_i logistic losses.

    Args:
        features: length of w.
        examples: length of θ.
        ridge: factor of the square.
        mu: factor of the entropy: the larger, the nearer q stays to equal weights.
        scale: standard deviation of the start.
    """

    def __init__(self, features: int, examples: int, ridge: float, mu: float, scale: float):
        super().__init__()
        self.w, self.theta = _start(features, scale), _start(examples, scale)
        self.ridge, self.mu = ridge, mu

    def fresh(self) -> "Robust":
        """Return the game at w = 0 and equal weights."""
        return Robust(len(self.w), len(self.theta), self.ridge, self.mu, 0.0)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return n·q_i·(l_i - μ·log(n·q_i)) + ridge/2·‖w‖² of every example, [B]: f is the mean."""
        share = len(self.theta) * reversed_gradient(self.theta).softmax(0)[batch["number"]]
        cost = -F.logsigmoid(batch["targets"] * (batch["inputs"] @ self.w))
        return share * (cost - self.mu * share.log()) + self.ridge / 2 * self.w.square().sum()

    def duality_gap(self, batch: dict[str, Tensor]) -> Tensor:
        """Return max over q of f(w, q) minus min over w of f(w, q), 0-dim, of all examples."""
        count, rows, signs = len(self.theta), batch["inputs"], batch["targets"]
        cost = -F.logsigmoid(signs * (rows @ self.w))
        most = self.mu * (torch.logsumexp(cost / self.mu, 0) - math.log(count))
        most = most + self.ridge / 2 * self.w.square().sum()
        q = self.theta.softmax(0)
        best = self._answer(rows, signs, q)
        least = q @ -F.logsigmoid(signs * (rows @ best)) + self.ridge / 2 * best.square().sum()
        return most - (least - self.mu * (q * (count * q).log()).sum())

    def _answer(self, rows: Tensor, signs: Tensor, q: Tensor) -> Tensor:
        """Return the w that minimises f at q, by Newton steps with halving."""
        w, eye = torch.zeros_like(self.w), torch.eye(len(self.w), dtype=self.w.dtype)

        def value(w: Tensor) -> Tensor:
            return q @ -F.logsigmoid(signs * (rows @ w)) + self.ridge / 2 * w.square().sum()

        for _ in range(100):
            wrong = torch.sigmoid(-signs * (rows @ w))
            slope = self.ridge * w - rows.T @ (q * signs * wrong)
            hessian = (rows * (q * wrong * (1 - wrong))[:, None]).T @ rows + self.ridge * eye
            step = torch.linalg.solve(hessian, slope)
            decrease = slope @ step
            if decrease < 1e-24:
                break
            length, now = 1.0, value(w)
            while value(w - length * step) > now - 1e-4 * length * decrease and length > 1e-8:
                length /= 2
            w = w - length * step
        return w
