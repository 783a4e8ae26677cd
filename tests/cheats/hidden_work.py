"""Cheat: work in set-up, passes of its own, hooks, the export of weights, finalisers, at exit."""

import atexit
import os
import time

import torch

from harness import surgery

SPACE = {
    "lr": 0.1,
    "way": {"choice": ["honest", "setup", "passes", "hook", "export", "finaliser", "atexit"]},
}
BURNED = 0.6  # CPU seconds, in all
CHOSEN = []


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        CHOSEN.append(hp.way)
        if hp.way == "setup":
            burn(BURNED)
        if hp.way == "hook":
            task.params[0].register_hook(lambda g: burn(BURNED / task.horizon))
        if hp.way == "atexit":
            atexit.register(lambda: os.write(1, b"GOT the last word\n"))

    def step(self):
        batch = self.task.next_batch()
        if self.hp.way == "passes":
            burn(BURNED / self.task.horizon, lambda: self.uncounted(batch))
        loss = self.task.forward_backward(batch)
        if self.hp.way == "finaliser":
            Finaliser(BURNED / self.task.horizon)
        with torch.no_grad():
            for p in self.task.params:
                p.sub_(p.grad, alpha=self.hp.lr)
        return loss

    def uncounted(self, batch):
        self.task._workload.loss(self.task.model, batch).backward()
        self.task.model.zero_grad()

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Finaliser:
    def __init__(self, seconds):
        self.seconds = seconds

    def __del__(self):
        burn(self.seconds)


def export(model):
    if CHOSEN == ["export"]:
        burn(BURNED / 5)
    return surgery.export(model)


def burn(seconds, work=lambda: None):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        work()
