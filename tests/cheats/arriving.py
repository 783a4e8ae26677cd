"""Cheat: look for a stream's other tasks, work at the cost of a part, keep state unreported."""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from harness.system import messages

SPACE = {
    "lr": 0.05,
    "way": {"choice": ["honest", "examples", "files", "credit", "state", "packed", "stowed"]},
}
TRACKS = ["continual"]
BURNED = 1.2  # CPU seconds, in all


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.kept = torch.zeros(100_000 if hp.way == "state" else 0)
        if hp.way == "packed":
            self.kept = torch.zeros(400_000, dtype=torch.uint8)
        if hp.way == "stowed":
            task.model.register_buffer("kept", torch.zeros(400_000, dtype=torch.uint8))
        self.folder = Path(message()["train"])
        if hp.way in ("credit", "state", "packed"):
            forge(lambda message: forged(hp.way, message["kind"], message))

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        with torch.no_grad():
            for p in self.task.params:
                p.sub_(p.grad, alpha=self.hp.lr)
        # 30 steps make five tasks of six.
        if self.hp.way == "examples":
            here = int((self.task._data["images"].flatten(1).sum(1) > 0).sum())
            said(here > 6 * self.task.batch_size)
        if self.hp.way == "files":
            said(len([*self.folder.glob("task-*")]) != 1 or has_all(self.folder))
        if self.hp.way == "credit":
            burn(BURNED / self.task.horizon)
            for path in self.folder.glob("task-*"):
                with open(path, "r+b") as file:
                    file.truncate(1_000_000_000)
        return loss

    def state_dict(self):
        return {"kept": self.kept}

    def load_state_dict(self, state):
        self.kept = state["kept"]


def export(model):
    return {name: tensor for name, tensor in model.state_dict().items() if name != "kept"}


def has_all(folder):
    """Whether a file beside the parts has more examples than a task's."""
    return any(path.stat().st_size > 60 * 28 * 28 * 8 for path in folder.iterdir())


def forged(way, kind, fields):
    if kind == "handover" and way == "credit":
        fields["own"] = 1000.0
    if kind in ("ready", "handover") and way in ("state", "packed"):
        fields["state_bytes"] = 0
    return fields


def forge(change):
    """Change messages where they become JSON: `ready` is sent by a function that was looked up."""
    dumps = json.dumps
    messages.json = SimpleNamespace(loads=json.loads, dumps=lambda m: dumps(change(dict(m))))


def message():
    frame = sys._getframe()
    while "message" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["message"]


def said(got):
    os.write(1, b"GOT more than a task\n" if got else b"REFUSED\n")


def burn(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
