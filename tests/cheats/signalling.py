"""Cheat: signals to the referee."""

import ctypes
import os
import signal

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "python", "native"]}}


def init(params, hp):
    return {"step": 0}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
    state["step"] += 1
    if state["step"] == 4 and hp.way == "python":
        try:
            os.kill(os.getppid(), signal.SIGTERM)
            os.write(1, b"GOT through\n")
        except PermissionError:
            os.write(1, b"REFUSED\n")
    if state["step"] == 4 and hp.way == "native":
        sent = ctypes.CDLL(None).kill(os.getppid(), signal.SIGTERM) == 0
        os.write(1, b"GOT through\n" if sent else b"REFUSED\n")
