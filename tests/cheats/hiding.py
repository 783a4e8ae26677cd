"""Cheat: train all weights of a pretrained model, and report few of them or little memory."""

import json
from types import SimpleNamespace

import torch

from harness import surgery
from harness.system import messages

SPACE = {"lr": 0.01, "way": {"choice": ["honest", "trainable", "memory"]}}
TRACKS = ["finetune"]


class Hiding(surgery.Adapted):
    """A matrix with an extra buffer, so that the hand-over is a merged one."""

    def __init__(self, linear):
        super().__init__(linear)
        self.register_buffer("extra", torch.zeros(1))

    def dense(self):
        return self.weight

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight, self.bias)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        if hp.way == "trainable":
            surgery.replace(task.model, Hiding)
        if hp.way == "memory":
            forge(forged)
        self.all = [*task.model.parameters()]
        self.show(hp.way != "trainable")

    def step(self):
        self.show(True)
        loss = self.task.forward_backward(self.task.next_batch())
        self.show(self.hp.way != "trainable")
        with torch.no_grad():
            for p in self.all:
                if p.grad is not None:
                    p.sub_(p.grad, alpha=self.hp.lr)
        return loss

    def show(self, shown):
        for p in self.all:
            p.requires_grad_(shown)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def forged(message):
    return message | {"training_memory": 1} if "training_memory" in message else message


def forge(change):
    """Change messages where they become JSON: `ready` is sent by a function that was looked up."""
    dumps = json.dumps
    messages.json = SimpleNamespace(loads=json.loads, dumps=lambda m: dumps(change(dict(m))))
