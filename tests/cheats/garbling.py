"""Cheat: bytes and messages that would break whoever reads them carelessly."""

import hashlib
import json
import sys
from types import SimpleNamespace

from harness.system import messages

SPACE = {
    "lr": 0.1,
    "way": {
        "choice": [
            "honest", "layout", "text", "deep", "huge", "bytes", "length", "half", "flood",
            "unknown", "more", "header", "offsets",
        ]
    },
}  # fmt: skip
# Of a checkpoint whose hash fits: it nests deep, or has a tensor of a googol of bytes.
ROW = {"dtype": "F32", "shape": [1], "data_offsets": [0, 10**100]}
HEADERS = {"header": "[" * 100_000, "offsets": json.dumps({"meta.submission.x": ROW})}
INNER = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "huge": "9" * 1_000_000,
    "bytes": "\x00\x1b]0;title\x07",
}


def init(params, hp):
    if hp.way != "honest":
        true = json.dumps
        messages.json = SimpleNamespace(
            loads=json.loads, dumps=lambda message: garbled(hp.way, dict(message), true)
        )
    return {}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)


def garbled(way, message, true):
    """The text of a message; other bytes go to the socket at once."""
    if message["kind"] == "ready" and way == "layout":
        del message["layout"]
    if message["kind"] == "saved" and way in HEADERS:
        crafted(HEADERS[way])
    if message["kind"] == "handover":
        end = sys._getframe(2).f_locals["self"]._socket
        if way == "text":
            message["outside"] = "0.1 s"
        if way == "more":
            message["goal_reached"] = True
        if way == "unknown":
            message["kind"] = "reached"
        if way == "flood":
            saved = true({"kind": "saved", "own": 0.0}).encode()
            for _ in range(1000):
                end.sendall(len(saved).to_bytes(4, "big") + saved)
        if way == "length":
            end.sendall((1 << 31).to_bytes(4, "big") + b"{}")
        if way == "half":
            end.sendall((1 << 20).to_bytes(4, "big") + b'{"kind": ')
        if way in INNER:
            return '{"kind": "handover", "step": ' + INNER[way] + "}"
    return true(message)


def crafted(header):
    """Put a file with this header in the place of the newest checkpoint."""
    frame = sys._getframe()
    while "runner" not in frame.f_locals:
        frame = frame.f_back
    place = max(frame.f_locals["runner"]._folder.glob("step-*"))
    content = len(header).to_bytes(8, "little") + header.encode()
    place.unlink()
    name = f"{place.name[:15]}{hashlib.sha256(content).hexdigest()[:32]}.safetensors"
    place.with_name(name).write_bytes(content)
