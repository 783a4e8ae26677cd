"""Cheat: escape sequences for the terminal, in an exception and in what a message tells."""

import json
from types import SimpleNamespace

from harness.system import messages

SPACE = {
    "lr": 0.1,
    "way": {"choice": ["honest", "exception", "hooked", "warning", "tensor", "turned", "half"]},
}
TURNED, HALF = "a.py \u202eyp.b\u202c", "half of a pair \ud800"
ESCAPE = "\x1b]0;another title\x07\x1b[2J\r\x9b31m"


def init(params, hp):
    if hp.way in ("hooked", "warning", "tensor"):
        forge(lambda message: forged(hp.way, message["kind"], message))
    return {"step": 0}


def update(params, grads, state, hp, progress):
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=hp.lr)
    state["step"] += 1
    texts = {"exception": ESCAPE, "turned": TURNED, "half": HALF}
    if state["step"] == 4 and hp.way in texts:
        raise ValueError(texts[hp.way])


def forged(way, kind, fields):
    if kind == "ready" and way == "warning":
        fields["warnings"] = [ESCAPE]
    if kind == "ready" and way == "tensor":
        fields["layout"] = [[ESCAPE, "float32", [1]], *fields["layout"]]
    if kind in ("ready", "handover") and way == "hooked":
        fields["hooked"] = ESCAPE
    return fields


def forge(change):
    """Change messages where they become JSON: `ready` is sent by a function that was looked up."""
    dumps = json.dumps
    messages.json = SimpleNamespace(loads=json.loads, dumps=lambda m: dumps(change(dict(m))))
