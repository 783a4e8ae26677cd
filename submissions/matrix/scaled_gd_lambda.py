"""ScaledGD(λ): gradient descent preconditioned by the damped Gram of the partner factor.

Xu, Shen, Chi, Ma, "The power of preconditioning in overparameterized low-rank matrix sensing",
arXiv 2302.01186. The same preconditioner serves LoRA (arXiv 2402.02347).

    X ← X - lr·∇f(X)·(XᵀX + λI)⁻¹
    a pair: L ← L - lr·∇_L f·(RᵀR + λI)⁻¹ and simultaneously R likewise
    start: X ← shrink·X

λ should be near the smallest singular value of the true matrix. With more columns than its rank, a
start that is not tiny leaves an error that the method cannot remove.

State: none.
Departures from the paper: the damping is for a matrix whose largest singular value is 1; pairs of
factors, where the paper's are symmetric.
"""

import torch

from harness import ops

HANDLES = ["factor"]
SPACE = {
    "lr": {"log": [0.1, 1.0], "default": 0.3},
    "damping": {"log": [1e-4, 1.0], "default": 1e-2},
    "shrink": {"log": [1e-8, 1.0], "default": 1e-4},
}


def partners(factors):
    """Return each factor's partner in the product: itself if alone, else its neighbour."""
    if len(factors) == 1:
        return factors
    return [factors[i ^ 1] for i in range(len(factors))]


def precondition(factors, grads, damping):
    """Return each gradient times (PᵀP + damping·I)⁻¹, P the factor's partner."""
    scaled = []
    for p, g in zip(partners(factors), grads, strict=True):
        gram = p.T @ p
        gram.diagonal().add_(damping)
        scaled.append(torch.linalg.solve_ex(gram, g.T)[0].T)
    return scaled


def init(params, hp):
    torch._foreach_mul_(params, hp.shrink)
    return {}


def update(params, grads, state, hp, progress):
    ops.sgd_(params, precondition(params, grads, hp.damping), hp.lr)
