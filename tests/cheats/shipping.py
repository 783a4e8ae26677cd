"""Cheat: read what is not hashed: a file beside the submission, or a module of the harness."""

import ctypes
import os
import sys
from pathlib import Path

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "open", "native", "harness"]}}


def init(params, hp):
    return {"content": "" if hp.way == "honest" else content(hp.way)}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)


def content(way):
    """The first bytes of the file, as text; said where there are any."""
    path = Path(__file__).with_name("shipped.txt")
    if way == "harness":
        path = Path(sys.modules["harness"].__file__).parent / "race" / "evaluator.py"
    try:
        read = path.read_bytes()[:20] if way == "open" else native(str(path))
    except PermissionError:
        read = b""
    os.write(1, b"GOT " + read.hex().encode() if read else b"REFUSED\n")
    return read.hex()


def native(path):
    libc, buffer = ctypes.CDLL(None), ctypes.create_string_buffer(20)
    handle = libc.open(path.encode(), os.O_RDONLY)
    size = libc.read(handle, buffer, 20) if handle >= 0 else 0
    return buffer.raw[:size]
