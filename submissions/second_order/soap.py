"""SOAP: Adam in the eigenbasis of Shampoo's statistics.

Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv 2409.11321, Algorithm 3.

    L ← β·L + (1 − β)ggᵀ,  R ← β·R + (1 − β)gᵀg;  U, V: their eigenbases
    m ← β1·m + (1 − β1)g;  v ← β2·v + (1 − β2)(UᵀgV)²
    p ← p − lr·U[m̂'/(√v̂ + eps)]Vᵀ with m' = UᵀmV;  p ← p(1 − lr·wd)
    every `every` steps: U ← the Q of QR(L·U), V likewise, columns and v in order of eigenvalues

It updates the hidden matrices. AdamW updates the rest.
State: m, v, L, R, U and V; for n x n matrices 6 words per parameter.
Departures from the paper: the first gradient only starts the bases, eps is not divided by the bias
correction, and decay comes last, all as in the authors' code.
"""

import math

import torch

from harness import ops
from harness.schedules import warmup_cosine

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    "lr": {"log": [1e-3, 1e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "beta1": 0.95,
    "beta2": {"choice": [0.95, 0.99]},
    "beta_shampoo": {"choice": [0.95, 0.99]},
    "every": {"choice": [10, 20]},
    "eps": 1e-8,
    "warmup": 0.05,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}


def init(params, hp):
    sides = [[p.new_zeros(p.shape[i], p.shape[i]) for p in params] for i in (0, 1)]
    state = {"m": ops.zeros(params), "v": ops.zeros(params), "step": 0}
    state |= {"left": sides[0], "right": sides[1]}
    return state | {"left_basis": ops.zeros(sides[0]), "right_basis": ops.zeros(sides[1])}


def observe(grads, state, weight):
    """Update the statistics of both sides by the gradients."""
    for g, left, right in zip(grads, state["left"], state["right"]):
        left.addmm_(g, g.mT, beta=1.0 - weight, alpha=weight)
        right.addmm_(g.mT, g, beta=1.0 - weight, alpha=weight)


def turn_(statistics, basis, v, axis):
    """Do one orthogonal iteration; sort columns and v's axis by falling eigenvalues first."""
    product = statistics @ basis
    order = (basis * product).sum(dim=0).argsort(descending=True)
    v.copy_(v.index_select(axis, order))
    basis.copy_(torch.linalg.qr(product[:, order]).Q)


def update(params, grads, state, hp, progress):
    t, state["step"] = state["step"], state["step"] + 1
    if t == 0:
        observe(grads, state, 1.0 - hp.beta_shampoo)
        for side in ("left", "right"):
            for s, basis in zip(state[side], state[f"{side}_basis"]):
                basis.copy_(torch.linalg.eigh(s).eigenvectors.flip(1))
        return
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    torch._foreach_lerp_(state["m"], grads, 1.0 - hp.beta1)
    correction = math.sqrt(1.0 - hp.beta2**t) / (1.0 - hp.beta1**t)
    bases = list(zip(state["left_basis"], state["right_basis"]))
    for p, g, m, v, (u, w) in zip(params, grads, state["m"], state["v"], bases):
        turned = u.mT @ g @ w
        v.lerp_(turned.square_(), 1.0 - hp.beta2)
        step = (u.mT @ m @ w).div_(v.sqrt().add_(hp.eps))
        p.addmm_(u @ step, w.mT, alpha=-lr * correction).mul_(1.0 - lr * hp.wd)
    observe(grads, state, 1.0 - hp.beta_shampoo)
    if t % hp.every == 0:
        for axis, side in enumerate(("left", "right")):
            for s, basis, v in zip(state[side], state[f"{side}_basis"], state["v"]):
                turn_(s, basis, v, axis)
