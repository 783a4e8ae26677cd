"""The minimum of a convex loss, to the last digits, for a referee to compare with."""

from collections.abc import Callable

import torch
from torch import Tensor

# Iterations after which a problem counts as unsolvable: a mistake in its numbers.
MOST = 50_000


def minimise(
    smooth: Callable[[Tensor], Tensor],
    prox: Callable[[Tensor, float], Tensor],
    start: Tensor,
    smoothness: float,
    convexity: float,
    tolerance: float = 1e-13,
) -> Tensor:
    """Return the minimiser of smooth(w) + rest(w), by accelerated proximal gradient steps.

    FISTA (Beck and Teboulle, 2009) with restarts (O'Donoghue and Candès, arXiv 1204.3982). It stops
    when ‖G‖²/(2·convexity) ≤ tolerance, where G is the gradient mapping: this bounds the loss above
    its minimum.

    Args:
        smooth: the differentiable part, w [d] -> 0-dim.
        prox: of the rest: (v [d], step) -> argmin rest(z) + ‖z - v‖²/(2·step).
        smoothness: Lipschitz constant of the gradient of `smooth`.
        convexity: `smooth` minus convexity·‖w‖²/2 is convex; above 0.

    Raises:
        RuntimeError: it does not converge.
    """
    gradient = torch.func.grad(smooth)
    x, y, momentum = start, start, 1.0
    for _ in range(MOST):
        new = prox(y - gradient(y) / smoothness, 1 / smoothness)
        mapping = smoothness * (y - new)
        if float(mapping.square().sum()) <= 2 * convexity * tolerance:
            return new
        if float(mapping @ (new - x)) > 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        y = new + (momentum - 1) / following * (new - x)
        x, momentum = new, following
    raise RuntimeError(f"the minimum was not found in {MOST} iterations")


def soft_threshold(values: Tensor, threshold: float) -> Tensor:
    """Return sign(v)·max(|v| - threshold, 0): the prox of threshold·‖·‖₁."""
    return values.sign() * (values.abs() - threshold).clamp(min=0)


def onto_l1_ball(values: Tensor, radius: float) -> Tensor:
    """Return the nearest point whose absolute values sum to at most `radius`, of any shape.

    Duchi et al., "Efficient Projections onto the l1-Ball", ICML 2008, Figure 1.
    """
    size = values.abs().flatten()
    if float(size.sum()) <= radius:
        return values.clone()
    ordered = size.sort(descending=True).values
    excess = ordered.cumsum(0) - radius
    count = torch.arange(1, len(size) + 1, dtype=values.dtype)
    last = int((ordered * count > excess).sum())
    return soft_threshold(values, float(excess[last - 1] / last))
