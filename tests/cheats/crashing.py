"""Cheat: work hard in one step, keep the fruit, and die before it is paid for."""

import os
import sys
import time
from pathlib import Path

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "crash"]}}
BURNED = 2.5  # CPU seconds


def init(params, hp):
    return {"step": 0, "lives": 1 + any(progress_file().read_bytes())}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
    state["step"] += 1
    if state["step"] == 4 and hp.way == "crash":
        note = Path("note")
        if note.exists():
            os.write(1, b"GOT what was kept\n")
        if state["lives"] == 1:
            until = time.process_time() + BURNED
            while time.process_time() < until:
                pass
            note.write_bytes(b"weights")
            os._exit(1)


def progress_file():
    """The count of steps, which outlives a crash."""
    frame = sys._getframe()
    while "message" not in frame.f_locals:
        frame = frame.f_back
    return Path(frame.f_locals["message"]["progress"])
