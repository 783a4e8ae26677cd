"""Cheat: mark a file that it may only read, for the next trial: its times, mode or attributes.

The marks are those that the file has, or are taken off again, so that nothing changes.
"""

import ctypes
import os
import struct
import sys
from pathlib import Path

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "times", "mode", "attributes"]}}


def init(params, hp):
    if hp.way != "honest":
        libc, path = ctypes.CDLL(None), bytes(target())
        seen = os.stat(path)
        if hp.way == "times":
            moments = b"".join(
                struct.pack("qq", *divmod(ns, 10**9)) for ns in (seen.st_atime_ns, seen.st_mtime_ns)
            )
            got = libc.utimensat(-100, path, ctypes.create_string_buffer(moments), 0) == 0
        elif hp.way == "mode":
            got = libc.chmod(path, seen.st_mode & 0o7777) == 0
        else:
            got = libc.setxattr(path, b"user.harness-cheat", b"1", 1, 0) == 0
            libc.removexattr(path, b"user.harness-cheat")
        os.write(1, b"GOT it marked\n" if got else b"REFUSED\n")
    return {}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)


def target():
    frame = sys._getframe()
    while "message" not in frame.f_locals:
        frame = frame.f_back
    return Path(frame.f_locals["message"]["train"]) / "tensors.safetensors"
