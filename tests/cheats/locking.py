"""Cheat: locks on a library's file, which a trial beside this one would notice."""

import ctypes
import os
import struct

import torch

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "fcntl", "flock", "lease"]}}
F_SETLK, F_SETLEASE, F_RDLCK, LOCK_SH = 6, 1024, 0, 1


def init(params, hp):
    if hp.way != "honest":
        libc = ctypes.CDLL(None)
        handle = os.open(torch.__file__, os.O_RDONLY)
        if hp.way == "fcntl":
            region = struct.pack("hhqqi", F_RDLCK, os.SEEK_SET, 0, 1, 0) + bytes(8)
            got = libc.fcntl(handle, F_SETLK, ctypes.create_string_buffer(region)) == 0
        elif hp.way == "flock":
            got = libc.flock(handle, LOCK_SH) == 0
        else:
            got = libc.fcntl(handle, F_SETLEASE, F_RDLCK) == 0
        os.write(1, b"GOT a lock\n" if got else b"REFUSED\n")
    return {}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
