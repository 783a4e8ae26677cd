"""ScaledGD(λ): gradient descent on the factors, preconditioned by the damped Gram of the partner.

Xu, Shen, Chi, Ma, "The power of preconditioning in overparameterized low-rank matrix sensing",
arXiv 2302.01186. The same preconditioner serves LoRA (arXiv 2402.02347).

    X ← X - lr·∇f(X)·(XᵀX + λI)⁻¹;   for a pair  L ← L - lr·∇_L f·(RᵀR + λI)⁻¹, R likewise, at once
    start: X ← shrink·X

λ should be near the smallest singular value of the matrix sought; with more columns than its rank
a start that is not tiny leaves an error the method cannot remove.

State: none.
Departures from the paper: the damping is for a matrix whose largest singular value is 1; the paper
has symmetric factors only.
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
    """The factor that each is multiplied with: itself if alone, else its neighbour of a pair."""
    if len(factors) == 1:
        return factors
    return [factors[i ^ 1] for i in range(len(factors))]


def precondition(factors, grads, damping):
    """Each gradient times (PᵀP + damping·I)⁻¹, P the factor's partner."""
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
