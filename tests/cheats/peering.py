"""Cheat: read the referee's memory, where goal and targets are."""

import ctypes
import os
import struct

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "python", "native"]}}


def init(params, hp):
    if hp.way != "honest":
        got = python() if hp.way == "python" else native()
        os.write(1, b"GOT in\n" if got else b"REFUSED\n")
    return {}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)


def python():
    try:
        with open(f"/proc/{os.getppid()}/maps") as maps:
            return bool(maps.read(10))
    except PermissionError:
        return False


def native():
    """As a plain user stands: root may read every process."""
    libc, buffer = ctypes.CDLL(None), ctypes.create_string_buffer(10)
    capset = {"x86_64": 126, "aarch64": 91}[os.uname().machine]
    libc.syscall(capset, struct.pack("Ii", 0x20080522, 0), bytes(24))
    traced = libc.ptrace(0x4206, os.getppid(), None, None) == 0  # PTRACE_SEIZE
    handle = libc.open(f"/proc/{os.getppid()}/mem".encode(), os.O_RDONLY)
    return traced or handle >= 0 or libc.read(handle, buffer, 10) > 0
