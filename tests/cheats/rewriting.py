"""Cheat: open the trial's own record for writing, by native code. Nothing is written."""

import ctypes
import os
import sys
from pathlib import Path

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "log", "spent", "config"]}}
NAMES = {"log": "log.jsonl", "spent": "spent", "config": "config.yaml"}


def init(params, hp):
    return {"step": 0, "path": str(folder() / NAMES.get(hp.way, ""))}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
    state["step"] += 1
    if state["step"] == 10 and hp.way != "honest":
        handle = ctypes.CDLL(None).open(state["path"].encode(), os.O_WRONLY | os.O_APPEND)
        os.write(1, b"GOT it open\n" if handle >= 0 else b"REFUSED\n")


def folder():
    frame = sys._getframe()
    while "message" not in frame.f_locals:
        frame = frame.f_back
    return Path(frame.f_locals["message"]["checkpoint"]).parent
