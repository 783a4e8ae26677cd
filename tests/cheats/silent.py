"""Cheat: stop answering, deaf to all that can be ignored, or with a step count that only moves."""

import signal
import sys
import time

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "silent", "restless"]}}


def init(params, hp):
    return {"step": 0}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
    state["step"] += 1
    if state["step"] == 4 and hp.way == "silent":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while True:
            time.sleep(3600)
    if state["step"] == 4 and hp.way == "restless":
        frame = sys._getframe()
        while "runner" not in frame.f_locals:
            frame = frame.f_back
        while True:
            for step in (2, 3):
                frame.f_locals["runner"]._progress[:1] = bytes([step])
                time.sleep(0.3)
