"""Reference solutions of periodic problems by Fourier modes and exponential time differencing."""

from collections.abc import Callable

import numpy as np

# Points on the circle around each eigenvalue.
CONTOUR = 64


def etdrk4(
    start: np.ndarray, linear: np.ndarray, nonlinear: Callable, times: np.ndarray, step: float
) -> np.ndarray:
    """Solve û_t = L û + N(û) for Fourier coefficients, fourth order in time.

    Kassam, Trefethen, "Fourth-order time-stepping for stiff PDEs", SIAM J. Sci. Comput. 26 (2005):
    coefficients such as (e^z - ...)/z³ are means over a circle around z, which avoids cancellation.

    Args:
        start: coefficients at time 0, as numpy.fft.rfft gives them.
        linear: L, one number a mode.
        nonlinear: û -> N(û).
        times: ascending; whole steps of at most `step` reach each of them.

    Returns:
        Coefficients at the times, [len(times), modes].
    """
    found, u, now, known = [], start.astype(complex), 0.0, {}
    for goal in times:
        count = int(np.ceil((goal - now) / step - 1e-9))
        if count:
            h = (goal - now) / count
            if round(h, 12) not in known:
                known[round(h, 12)] = _coefficients(h, linear)
            u = _advance(u, nonlinear, known[round(h, 12)], count)
        found.append(u)
        now = goal
    return np.array(found)


def _coefficients(h, linear):
    z = h * linear[:, None] + np.exp(2j * np.pi * (np.arange(CONTOUR) + 0.5) / CONTOUR)
    e = np.exp(z)
    q = h * ((np.exp(z / 2) - 1) / z).mean(1).real
    f1 = h * ((-4 - z + e * (4 - 3 * z + z**2)) / z**3).mean(1).real
    f2 = h * ((2 + z + e * (z - 2)) / z**3).mean(1).real
    f3 = h * ((-4 - 3 * z - z**2 + e * (4 - z)) / z**3).mean(1).real
    return np.exp(h * linear), np.exp(h * linear / 2), q, f1, f2, f3


def _advance(u, nonlinear, coefficients, count):
    whole, half, q, f1, f2, f3 = coefficients
    for _ in range(count):
        nu = nonlinear(u)
        a = half * u + q * nu
        na = nonlinear(a)
        b = half * u + q * na
        nb = nonlinear(b)
        c = half * a + q * (2 * nb - nu)
        u = whole * u + f1 * nu + 2 * f2 * (na + nb) + f3 * nonlinear(c)
    return u


def at(coefficients: np.ndarray, modes: int, phase: np.ndarray) -> np.ndarray:
    """Return the values of a real Fourier series of `modes` grid points at phases (period 2π)."""
    k = np.arange(coefficients.shape[-1])
    weight = np.where((k == 0) | (2 * k == modes), 1.0, 2.0) / modes
    return (coefficients * weight @ np.exp(1j * np.outer(k, phase))).real


def allen_cahn(x: np.ndarray, t: np.ndarray, diffusion: float, modes=2048, step=5e-4) -> np.ndarray:
    """Return u [len(t), len(x)] of u_t = diffusion·u_xx + 5(u - u³), u(0) = x² cos πx on [-1, 1].

    The initial value has a kink at the periodic boundary, so the error falls slowly with the number
    of modes: relative 1e-5 at 512, 7e-7 at 2,048 (compared with 4,096).
    """
    grid = -1 + 2 * np.arange(modes) / modes
    k = np.pi * np.arange(modes // 2 + 1)

    def nonlinear(v):
        u = np.fft.irfft(v, modes)
        return -5 * np.fft.rfft(u**3)

    start = np.fft.rfft(grid**2 * np.cos(np.pi * grid))
    found = etdrk4(start, 5 - diffusion * k**2, nonlinear, t, step)
    return at(found, modes, np.pi * (x + 1))


def burgers(x: np.ndarray, t: np.ndarray, viscosity: float, modes=2048, step=2.5e-4) -> np.ndarray:
    """Return u of u_t + u u_x = viscosity·u_xx, u(0) = -sin πx on [-1, 1], to check Cole-Hopf."""
    grid = -1 + 2 * np.arange(modes) / modes
    k = np.pi * np.arange(modes // 2 + 1)
    # Quadratic terms alias above this frequency.
    kept = k <= 2 / 3 * k[-1]

    def nonlinear(v):
        return -0.5j * k * kept * np.fft.rfft(np.fft.irfft(v * kept, modes) ** 2)

    start = np.fft.rfft(-np.sin(np.pi * grid))
    return at(etdrk4(start, -viscosity * k**2, nonlinear, t, step), modes, np.pi * (x + 1))
