"""Cheat: claims that agree with the message's schema, and with nothing else."""

import json
import time
from types import SimpleNamespace

import torch

from harness.system import messages

SPACE = {
    "lr": 0.1,
    "way": {
        "choice": [
            "honest", "ready", "anchor", "kind", "undone", "ahead", "future", "timeless", "primed",
        ]
    },
}  # fmt: skip
BURNED = 0.6  # CPU seconds, of set-up or of all steps
SENT = []


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        if hp.way != "honest":
            forge(lambda message: forged(hp.way, message["kind"], message))
        if hp.way == "ready":
            burn(BURNED)

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        if self.hp.way in ("timeless", "primed"):
            burn(BURNED / self.task.horizon)
        with torch.no_grad():
            for p in self.task.params:
                p.sub_(p.grad, alpha=self.hp.lr)
        return loss

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def burn(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def forged(way, kind, fields):
    if kind in ("ready", "handover") and way == "timeless":  # nothing is to be compared with that
        fields["inside"] = {}
    if kind == "ready" and way == "primed":  # whatever comes later is little beside that
        fields["passes"] = {"forward_backward": 1_000_000}
        fields["inside"] = {"forward_backward": 1_000_000 * fields["anchor"]}
    if kind == "ready" and way == "ready":  # set-up that was all in passes
        fields["inside"] = {"forward_backward": 100.0}
        fields["setup"] = 0.0
    if kind == "ready" and way == "future":
        fields["step"] = 29
    if kind == "handover":
        SENT.append(fields["step"])
        if way == "anchor":
            fields["anchor"] *= 20
        if way == "kind":
            fields["counts"] = {"forward@batch=1/64": fields["counts"]["forward_backward"]}
        if way == "undone" and len(SENT) > 1:
            fields["counts"] = {"forward_backward": 1}
        if way == "ahead":  # examples of passes that it has not made
            fields["samples"] *= 2
    return fields


def forge(change):
    """Change messages where they become JSON: `ready` is sent by a function that was looked up."""
    dumps = json.dumps
    messages.json = SimpleNamespace(loads=json.loads, dumps=lambda m: dumps(change(dict(m))))
