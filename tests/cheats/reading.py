"""Cheat: read what the referee keeps for itself."""

import ctypes
import os
import sys
from pathlib import Path

SPACE = {
    "lr": 0.1,
    "way": {"choice": ["honest", "open", "validation", "targets", "records", "machine"]},
}


def init(params, hp):
    return {"step": 0, "path": str(target(hp.way, told()))}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
    state["step"] += 1
    if state["step"] == 10 and hp.way != "honest":  # when there is a record
        content = python(state["path"]) if hp.way == "open" else native(state["path"])
        os.write(1, b"GOT " + content[:20].hex().encode() if content else b"REFUSED\n")


def told():
    """The message the runner was started with, out of its stack."""
    frame = sys._getframe()
    while "message" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["message"]


def target(way, message):
    train, project = Path(message["train"]), Path(sys.modules["harness"].__file__).parents[1]
    name = train.name.split("-train-")[0]
    if way in ("open", "validation"):
        beside = train.with_name(train.name.replace("-train-", "-val-"))  # the same hash
        return beside / "tensors.safetensors"
    if way == "targets":
        return project / "conf" / "workload" / f"{name}.yaml"
    if way == "records":
        return Path(message["checkpoint"]).parent / "log.jsonl"
    return Path("/etc/hosts")


def python(path):
    try:
        return Path(path).read_bytes()
    except PermissionError:
        return b""


def native(path):
    libc, buffer = ctypes.CDLL(None), ctypes.create_string_buffer(100)
    handle = libc.open(path.encode(), os.O_RDONLY)
    size = libc.read(handle, buffer, 100) if handle >= 0 else 0
    return buffer.raw[:size]
