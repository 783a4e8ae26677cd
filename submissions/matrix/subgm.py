"""SubGM: the sub-gradient method with geometrically falling steps, for absolute losses.

Ma, Fattahi, "Global convergence of sub-gradient method for robust matrix recovery", arXiv
2202.08788.

    X ← X - lr·ρᵗ·D·X,  D·X a subgradient of f(X) = mean |<A_i, XXᵀ> - y_i| / 2

D points along the error XXᵀ - M even when a constant share of the measurements is grossly wrong.
The scale of the start and the last step size determine the final error.

State: none.
Departures from the paper: ρ follows from the step size at the end of the horizon, lr·final; the
start is random and small, where the paper takes the leading eigenvectors of D at zero.
"""

from harness import ops

HANDLES = ["factor"]
SPACE = {
    "lr": {"log": [0.05, 1.0], "default": 0.3},
    "final": {"log": [1e-8, 1e-3], "default": 1e-6},
}


def init(params, hp):
    return {}


def update(params, grads, state, hp, progress):
    ops.sgd_(params, grads, hp.lr * hp.final**progress)
