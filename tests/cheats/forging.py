"""Cheat: messages to the referee that are not true."""

import sys

from harness.system.messages import Channel

SPACE = {
    "lr": 0.1,
    "way": {"choice": ["honest", "outcome", "early", "twice", "seconds", "passes", "step"]},
}
TRUE = Channel.send


def init(params, hp):
    if hp.way in ("twice", "seconds", "passes", "step"):
        Channel.send = lambda link, kind, **fields: forged(hp.way, link, kind, fields)
    return {"step": 0}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
    state["step"] += 1
    if state["step"] == 4 and hp.way in ("outcome", "early"):
        link = channel_of(sys._getframe())
        if hp.way == "outcome":
            TRUE(link, "failed", outcome="reached", error="")
        else:
            TRUE(link, "handover", step=30, counts={}, samples=0)


def channel_of(frame):
    """Return the channel to the referee, found in the functions that called this one."""
    while frame:
        for value in frame.f_locals.values():
            if type(value) is Channel:
                return value
        frame = frame.f_back
    raise LookupError("no channel")


def forged(way, link, kind, fields):
    if kind == "handover":
        if way == "twice":
            TRUE(link, kind, **fields)
        if way == "seconds":
            fields["inside"] = {"forward_backward": float("nan")}
        if way == "passes":
            fields["counts"] = {name: n // 10 for name, n in fields["counts"].items()}
        if way == "step":
            fields["step"] -= 1
    TRUE(link, kind, **fields)
