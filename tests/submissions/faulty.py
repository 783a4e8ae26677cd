"""Plain gradient descent that goes wrong at its fifth step, in a way to be chosen."""

import os
import resource
import sys
import time

import torch

SPACE = {
    "lr": 0.1,
    "fault": {
        "choice": [
            "raise", "none", "explode", "nan_state", "grads", "print", "exit", "os_exit", "hang",
            "memory", "allocate", "disk", "fork",
        ]
    },
}  # fmt: skip


def init(params, hp):
    return {"m": [torch.zeros_like(p) for p in params], "step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    for p, g in zip(params, grads, strict=True):
        p.add_(g, alpha=-hp.lr)
    if state["step"] == 5:
        fail(hp.fault, params, grads, state)


def fail(fault, params, grads, state):
    if fault == "raise":
        raise ValueError("five is too many")
    if fault == "explode":
        for p in params:
            p.mul_(1e30)
    elif fault == "nan_state":
        for m in state["m"]:
            m.fill_(float("nan"))
    elif fault == "grads":
        for g in grads:
            g.zero_()
    elif fault == "print":
        print("a line on stdout")
        print("a line on stderr", file=sys.stderr)
    elif fault == "exit":
        sys.exit(0)
    elif fault == "os_exit":
        os._exit(0)
    elif fault == "hang":
        time.sleep(3600)
    elif fault == "memory":
        raise MemoryError
    elif fault == "allocate":
        torch.empty(2**50)
    elif fault == "disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))  # less than a checkpoint)
    elif fault == "fork" and os.fork() == 0:
        time.sleep(3600)
    elif fault == "fork":
        os._exit(0)  # while a child holds all our files open
