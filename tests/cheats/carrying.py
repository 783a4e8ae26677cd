"""Cheat: leave something for the next trial."""

import ctypes
import os
import sys
from pathlib import Path

SPACE = {
    "lr": 0.1,
    "way": {"choice": ["honest", "home", "checkpoint", "open", "tmp", "shm", "records"]},
}


def init(params, hp):
    note = place(hp.way)
    if note is not None:
        found = read(note)
        os.write(1, b"GOT a note\n" if found == b"note" else b"REFUSED\n")
        if hp.way == "open":
            try:
                note.write_bytes(b"note")
            except PermissionError:
                return {}
        else:
            handle = ctypes.CDLL(None).open(str(note).encode(), os.O_WRONLY | os.O_CREAT, 0o600)
            ctypes.CDLL(None).write(handle, b"note", 4)
    return {}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)


def place(way):
    frame = sys._getframe()
    while "message" not in frame.f_locals:
        frame = frame.f_back
    results = Path(frame.f_locals["message"]["checkpoint"]).parents[4]
    return {
        "honest": None,
        "home": Path.home() / "note",
        "checkpoint": Path(frame.f_locals["message"]["checkpoint"]) / "note",
        "open": Path(f"/tmp/harness-cheat-{os.getuid()}-open"),
        "tmp": Path(f"/tmp/harness-cheat-{os.getuid()}"),
        "shm": Path(f"/dev/shm/harness-cheat-{os.getuid()}"),
        "records": results / "note",
    }[way]


def read(path):
    libc, buffer = ctypes.CDLL(None), ctypes.create_string_buffer(10)
    handle = libc.open(str(path).encode(), os.O_RDONLY)
    size = libc.read(handle, buffer, 10) if handle >= 0 else 0
    return buffer.raw[:size]
