"""Cheat: dense weights for the loss, pruned ones for the sparsity, at evaluations of their own."""

import torch

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "alternate"]}}


def init(params, hp):
    return {"seen": 0, "alternate": int(hp.way == "alternate")}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)


def evaluate_view(params, state):
    """Every second time the dense ones, where that is the cheat."""
    state["seen"] += 1
    dense = state["alternate"] and state["seen"] % 2
    return [p.clone() if dense else magnitude(p) for p in params]


def magnitude(p):
    if p.ndim < 2:
        return p.clone()
    return torch.where(p.abs() > p.abs().median(), p, 0.0)
