"""Cheat: shrink the memory that weights are handed over in, or let it grow beyond all limits."""

import os

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "shrink", "grow"]}}


def init(params, hp):
    return {"step": 0}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
    state["step"] += 1
    if state["step"] == 4 and hp.way != "honest":
        for handle in range(3, 50):
            try:
                if "memfd:weights" in os.readlink(f"/proc/self/fd/{handle}"):
                    os.ftruncate(handle, 0 if hp.way == "shrink" else 1 << 40)
                    os.write(1, b"GOT it\n")
            except PermissionError:
                os.write(1, b"REFUSED\n")
            except OSError:
                continue
