"""Cheat: learn labels that were not bought, or buy labels and report fewer."""

import os
from pathlib import Path

import torch
from safetensors.torch import load_file

PASSES = {"forward_backward": 1}
SPACE = {
    "lr": 0.1,
    "way": {
        "choice": [
            "honest",
            "data",
            "folder",
            "count",
            "ask",
            "range",
            "early",
            "late",
            "all",
            "again",
        ],
    },
}
MANY = 2000


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        if hp.way == "early":
            task.reveal(torch.arange(MANY))
        if hp.way == "data":
            said(int((task._data["labels"] >= 0).sum()) > len(task.labelled))
        if hp.way == "folder":
            folder = Path(message()["train"])
            every = [load_file(path) for path in folder.rglob("*.safetensors")]
            said(any(int((part["labels"] >= 0).sum()) > len(task.labelled) for part in every))

    def step(self):
        task, way = self.task, self.hp.way
        if task.step == 0 and way != "late":
            task.reveal(torch.empty(0, dtype=torch.int64))
        if task.step == 3 and way in ("all", "count"):
            task.reveal(task.unlabelled)
        if task.step == 3 and way == "count":
            task.meter.counts["label"] = 0
        if task.step == 3 and way == "ask":
            task.labels.ask(task.unlabelled[:MANY])
        while task.step == 3 and way == "again":
            task.labels.ask(task.labelled[:1])
        if task.step == 3 and way == "range":
            task.labels.ask(torch.tensor([task.examples]))
        loss = task.forward_backward(task.next_batch())
        for p in task.params:
            p.data.sub_(p.grad, alpha=self.hp.lr)
        return loss

    def state_dict(self):
        if self.hp.way == "late" and self.task.step:
            self.task.reveal(self.task.unlabelled)
        return {}

    def load_state_dict(self, state):
        pass


def message():
    import sys

    frame = sys._getframe()
    while "message" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["message"]


def said(got):
    os.write(1, b"GOT labels\n" if got else b"REFUSED\n")
