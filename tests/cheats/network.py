"""Cheat: ask a server."""

import ctypes
import os
import socket
import struct

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "python", "native"]}, "port": {"int": [1, 65535]}}


def init(params, hp):
    if hp.way == "python":
        try:
            socket.create_connection(("127.0.0.1", hp.port), 5).close()
            os.write(1, b"GOT a connection\n")
        except OSError:
            os.write(1, b"REFUSED\n")
    if hp.way == "native":
        libc = ctypes.CDLL(None)
        end = libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
        where = (
            struct.pack("=H", socket.AF_INET) + struct.pack("!H", hp.port) + bytes([127, 0, 0, 1])
        )
        done = libc.connect(end, where + bytes(8), 16) == 0
        os.write(1, b"GOT a connection\n" if done else b"REFUSED\n")
    return {}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
