"""Momentum that waits before every step, so that a test can disturb it at a chosen one."""

import time

import torch

SPACE = {"lr": 0.1, "wait": 0.008}


def init(params, hp):
    return {"m": [torch.zeros_like(p) for p in params]}


def update(params, grads, state, hp, progress):
    time.sleep(hp.wait)
    for p, g, m in zip(params, grads, state["m"], strict=True):
        m.lerp_(g, 0.5)
        p.add_(m, alpha=-hp.lr)
