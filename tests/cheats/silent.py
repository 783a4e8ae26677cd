"""Cheat: stop answering, deaf to all that can be ignored."""

import signal
import time

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "silent"]}}


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
