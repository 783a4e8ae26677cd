"""Scaled subgradient method: SubGM over the Gram of the factor, for absolute losses.

Tong, Ma, Chi, "Low-Rank Matrix Recovery with Scaled Subgradient Methods: Fast and Robust
Convergence Without the Condition Number", arXiv 2010.13364.

    X ← X − lr·qᵗ·D·X·(XᵀX + damping·I)⁻¹,  D·X a subgradient;  a pair: each over its partner's Gram

State: none.
Departures from the paper: geometric steps, with q such that the last is lr·final (Polyak's need the
optimal value, which outliers hide); the damping, for factors with too many columns; the start is
the workload's, not a truncated spectral one.
"""

from submissions.matrix import scaled_gd_lambda, subgm

HANDLES = ["factor"]
SPACE = {
    "lr": {"log": [0.05, 1.0], "default": 0.3},
    "final": {"log": [1e-8, 1e-3], "default": 1e-6},
    "damping": {"log": [1e-6, 0.1], "default": 1e-2},
}
init = subgm.init


def update(params, grads, state, hp, progress):
    scaled = scaled_gd_lambda.precondition(params, grads, hp.damping)
    subgm.update(params, scaled, state, hp, progress)
