"""Cheat: a backward pass that does other work, also in the reference step that it is held against.

`slow` takes five times as long, `sly` twice.
"""

import time

import torch

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "slow", "sly"]}}
FACTOR = {"slow": 5.0, "sly": 2.0}  # of a whole pass
TRUE = torch.Tensor.backward


def init(params, hp):
    if hp.way != "honest":
        torch.Tensor.backward = lambda loss, *a, **k: longer(FACTOR[hp.way] - 1, loss, *a, **k)
    return {}


def longer(factor, loss, *arguments, **more):
    begun = time.thread_time()
    result = TRUE(loss, *arguments, **more)
    until = time.thread_time() + 2 * factor * (time.thread_time() - begun)
    while time.thread_time() < until:
        pass
    return result


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
