"""Cheat: many processes, much memory, large files, many files. None of them without end."""

import mmap
import os
import sys
import time

SPACE = {
    "lr": 0.1,
    "way": {
        "choice": [
            "honest", "processes", "memory", "shared", "disk", "files", "log", "holes", "progress",
            "beyond",
        ]
    },
}  # fmt: skip


PLACES = []  # of the step count's file, from the message that the runner was started with


def init(params, hp):
    frame = sys._getframe()
    while "message" not in frame.f_locals:
        frame = frame.f_back
    PLACES.append(frame.f_locals["message"]["progress"])
    return {"step": 0}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
    state["step"] += 1
    if state["step"] == 4 and hp.way != "honest":
        globals()[hp.way]()


def processes():
    for _ in range(100):
        try:
            if os.fork() == 0:
                time.sleep(5)
                os._exit(0)
        except PermissionError:
            os.write(1, b"REFUSED\n")
            return
    time.sleep(5)


def memory():
    assert [bytearray(b"x" * 50_000_000) for _ in range(80)]


def disk():
    with open("large", "wb", buffering=0) as file:
        for _ in range(400):
            if file.write(bytes(1_000_000)) < 1_000_000:
                raise OSError(27, "File too large")


def files():
    for number in range(12_000):
        os.close(os.open(f"small-{number}", os.O_CREAT | os.O_WRONLY))
    time.sleep(5)


def shared():
    """Memory that the limit on a process's data does not count."""
    held = mmap.mmap(-1, 1_500_000_000)
    for at in range(0, len(held), 4096):
        held[at] = 1
    time.sleep(5)


def log():
    for _ in range(300):
        os.write(1, b"x" * 1_000_000)
    time.sleep(5)


def holes():
    with open("holes", "wb") as file:
        file.truncate(150_000_000)
    time.sleep(5)


def progress():
    """The file of the step count, which lies beside the folders that it may write to."""
    with open(PLACES[0], "r+b") as file:
        file.truncate(150_000_000)
    time.sleep(5)


def beyond():
    """Blocks behind the end of a file, whose length stays 0."""
    import ctypes

    with open("short", "wb") as file:
        keep_size, libc = 1, ctypes.CDLL(None)
        libc.fallocate64(file.fileno(), keep_size, ctypes.c_int64(0), ctypes.c_int64(150_000_000))
    time.sleep(5)
