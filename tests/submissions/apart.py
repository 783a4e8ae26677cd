"""Gradient descent of which one rank does something else at step 5, by `fault`."""

import os
import signal

import torch

SPACE = {"lr": 0.1, "fault": "none"}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        odd = torch.distributed.get_rank() == 1 and self.task.step == 5
        if odd and self.hp.fault == "raise":
            raise ValueError("one rank alone is wrong")
        if odd and self.hp.fault == "exit":
            os._exit(3)
        if odd and self.hp.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        with torch.no_grad():
            for p in self.task.params:
                p.add_(p.grad, alpha=-self.hp.lr)
            if odd and self.hp.fault == "drift":
                p.add_(1e-3)
        return loss

    def state_dict(self):
        return {}

    def load_state_dict(self, state): ...
