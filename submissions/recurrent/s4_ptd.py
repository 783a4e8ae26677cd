"""S4-PTD: a recurrence starts from the HiPPO matrix, perturbed so that it can be diagonalised.

Yu et al., "Robustifying State-space Models for Long Sequences via Approximate Diagonalization",
arXiv 2310.01698; the matrix: Gu et al., arXiv 2008.07669 (HiPPO-LegS).

    A_nk = −√((2n + 1)(2k + 1)) for n > k, −(n + 1) for n = k, else 0;  b_n = √(2n + 1)
    A + E = V·Λ·V⁻¹, E Gaussian with ‖E‖ = size·‖A‖;  A alone has a V of condition 10^(N/2) and more
    λ ← Λ, gain_k ← (cᵀV)_k·(V⁻¹b)_k with c the model's own gains;  then AdamW trains all of it

State: AdamW's two words per parameter.
Departures from the paper: E is random, one of its two ways; c is real. Of a pair of conjugate
eigenvalues one is kept, as the model doubles the real part; states that are left over keep their
start, with gain 0. Not compared with the paper's text.
"""

import numpy as np
import torch

from harness import surgery

BASE = "adamw"
SPACE = {
    "base_lr": {"log": [1e-3, 0.1], "default": 0.01},
    "base_wd": 0.0,
    "size": {"log": [1e-3, 0.3], "default": 0.05},
}


def hippo(count):
    """Return A [count, count] and b [count]."""
    root = np.sqrt(2 * np.arange(count) + 1)
    a = -np.tril(np.outer(root, root), -1) - np.diag(np.arange(count) + 1.0)
    return a, root


def diagonal(a, b, c):
    """Return eigenvalues and gains with Σ gain·exp(tλ) = cᵀ·exp(tA)·b, complex [count]."""
    values, vectors = np.linalg.eig(a)
    return values, (c @ vectors) * np.linalg.solve(vectors, b.astype(complex))


def halved(values, gains):
    """Return one of each pair of conjugates, such that 2·Re Σ is the sum over both."""
    kept = values.imag >= 0
    real = values.imag[kept] == 0
    return values[kept], np.where(real, 0.5, 1.0) * gains[kept]


def adapt(model, task, hp):
    for module in surgery.recurrences(model):
        count = len(module.rate)
        a, b = hippo(count)
        e = torch.randn(count, count, generator=task.rng, dtype=torch.float64).numpy()
        e *= hp.size * np.linalg.norm(a, 2) / np.linalg.norm(e, 2)
        c = module.gain[0].detach().double().cpu().numpy()
        values, gains = halved(*diagonal(a + e, b, c))
        with torch.no_grad():
            module.gain.zero_()
            places = (module.rate, module.frequency, *module.gain)
            found = (values.real, values.imag, gains.real, gains.imag)
            for place, part in zip(places, found, strict=True):
                place[: len(part)] = torch.from_numpy(part.copy()).to(place)
