"""Reference solutions in closed form or by one integral, all float64, u[time, place]."""

import numpy as np

# The number of nodes of the Gauss-Hermite rule.
NODES = 200


def convection(x: np.ndarray, t: np.ndarray, speed: float, phase: float = 0.0) -> np.ndarray:
    """Solve u_t + speed·u_x = 0, u(0) = sin(x - phase)."""
    return np.sin(x - phase - speed * t[:, None])


def reaction(x: np.ndarray, t: np.ndarray, rate: float) -> np.ndarray:
    """Solve u_t = rate·u(1 - u), u(0) a Gaussian bump of width π/4 at π."""
    start = bump(x)
    grown = start * np.exp(rate * t[:, None])
    return grown / (grown + 1 - start)


def bump(x):
    """Return the initial value of `reaction`."""
    return np.exp(-((x - np.pi) ** 2) / (2 * (np.pi / 4) ** 2))


def poisson(x: np.ndarray, y: np.ndarray, amplitude: float) -> np.ndarray:
    """Solve -Δu = 2π²·amplitude·sin πx·sin πy on the unit square, 0 on its edge."""
    return amplitude * np.sin(np.pi * y)[:, None] * np.sin(np.pi * x)


def burgers(x: np.ndarray, t: np.ndarray, viscosity: float) -> np.ndarray:
    """Solve u_t + u u_x = viscosity·u_xx, u(0) = -sin πx, by Cole and Hopf's transformation.

    u = -∫ sin π(x - z) f(x - z) w dz / ∫ f(x - z) w dz with f(y) = exp(-cos(πy)/(2πν)) and
    w = exp(-z²/(4νt)). With z = 2√(νt)·q both are Gauss-Hermite sums; subtracting the largest
    exponent keeps them in range. (C. Basdevant et al., Computers & Fluids 14, 1986.)
    """
    q, weight = np.polynomial.hermite.hermgauss(NODES)
    z = 2 * np.sqrt(viscosity * t)[:, None, None] * q
    y = x[None, :, None] - z
    power = -np.cos(np.pi * y) / (2 * np.pi * viscosity)
    density = weight * np.exp(power - power.max(axis=2, keepdims=True))
    return -(np.sin(np.pi * y) * density).sum(2) / density.sum(2)
