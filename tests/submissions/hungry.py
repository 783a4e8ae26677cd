"""Plain gradient descent that runs out of memory at its fifth step, in a way to be chosen."""

import resource

import torch

SPACE = {"lr": 0.1, "way": {"choice": ["limit", "gpu"]}}


def init(params, hp):
    return {"step": 0}


def update(params, grads, state, hp, progress):
    state["step"] += 1
    for p, g in zip(params, grads, strict=True):
        p.add_(g, alpha=-hp.lr)
    if state["step"] == 5 and hp.way == "gpu":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if state["step"] == 5:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))
        kept = []
        while True:
            kept.append(torch.ones(2**21))  # 8 MiB at a time, as a leak would
