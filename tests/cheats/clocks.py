"""Cheat: clocks that stand still or go slow, and a meter that calls work the harness's own."""

import time

import torch

SPACE = {"lr": 0.1, "way": {"choice": ["honest", "still", "slow", "meter"]}}
BURNED = 1.2  # CPU seconds that are meant to be free


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.true = task, hp, time.thread_time
        clocks = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
        for name in clocks if hp.way in ("still", "slow") else ():
            true, true_ns = getattr(time, name), getattr(time, f"{name}_ns")
            rate = 10 if hp.way == "slow" else 10**30
            setattr(time, name, lambda t=true, r=rate: t() / r)
            setattr(time, f"{name}_ns", lambda t=true_ns, r=rate: t() // r)
        if hp.way == "meter":
            self.fast, task.meter.own = 0.0, self.own

    def own(self):
        self.fast += 1.0
        return self.fast

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        until = self.true() + BURNED / self.task.horizon
        while self.hp.way != "honest" and self.true() < until:
            torch.ones(64, 64) @ torch.ones(64, 64)
        with torch.no_grad():
            for p in self.task.params:
                p.sub_(p.grad, alpha=self.hp.lr)
        return loss

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
