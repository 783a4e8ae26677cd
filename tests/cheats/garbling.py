"""Cheat: bytes and messages that would break whoever reads them carelessly."""

import json
import sys
from types import SimpleNamespace

from harness.system import messages

SPACE = {
    "lr": 0.1,
    "way": {
        "choice": [
            "honest", "layout", "text", "deep", "huge", "bytes", "length", "half", "flood",
            "unknown", "more",
        ]
    },
}  # fmt: skip
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
