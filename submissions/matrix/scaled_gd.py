"""ScaledGD: spectral start, then gradient descent preconditioned by the Gram of the partner.

Tong, Ma, Chi, "Accelerating ill-conditioned low-rank matrix estimation via scaled gradient
descent", arXiv 2005.08898.

    first `power` steps, near zero, where -∇_L f ≈ ε·Y·V and -∇_R f ≈ ε·Yᵀ·U, Y = A*(y):
        (U, V) ← (orth(Y·V), orth(Yᵀ·U)), the parameters are εU and εV
    then  P S Qᵀ = svd(Uᵀ·Y·V),  L = U·P·√S,  R = V·Q·√S
    then  L ← L - lr·∇_L f·(RᵀR)⁻¹ and R ← R - lr·∇_R f·(LᵀL)⁻¹ simultaneously
    a symmetric X: L = R = X

State: the step.
Departures from the paper: the spectral start is an orthogonal iteration on gradients, each charged
as a step; the paper has an exact SVD. A symmetric start takes the absolute values of eigenvalues.
The factors must have the exact rank: with more columns the Gram becomes singular.
"""

import torch

from harness import ops
from submissions.matrix import scaled_gd_lambda

HANDLES = ["factor"]
# ε: the quadratic part of the gradient is ε² of the linear part.
SMALL = 1e-4
SPACE = {"lr": {"log": [0.1, 1.0], "default": 0.5}, "power": {"int": [2, 60], "default": 20}}


def init(params, hp):
    for p in params:
        p.copy_(SMALL * torch.linalg.qr(p).Q)
    return {"step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    if state["step"] > hp.power:
        ops.sgd_(params, scaled_gd_lambda.precondition(params, grads, 0.0), hp.lr)
        return
    if state["step"] < hp.power:
        for p, g in zip(params, grads, strict=True):
            p.copy_(SMALL * torch.linalg.qr(-g).Q)
        return
    for left in range(0, len(params), 2):
        both = params[left : left + 2]
        core = both[0].T @ grads[left] / -(SMALL**2)
        if len(both) == 1:
            values, turn = torch.linalg.eigh((core + core.T) / 2)
            turns, values = [turn], values.abs()
        else:
            turn, values, other = torch.linalg.svd(core)
            turns = [turn, other.T]
        for p, q in zip(both, turns, strict=True):
            p.copy_(p @ q * values.sqrt() / SMALL)
