"""Momentum whose buffer no checkpoint keeps, so that a resumed run would differ."""

import torch

SPACE = {"lr": 0.1}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.scale = 1.0

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        self.scale += 0.01
        with torch.no_grad():
            for p in self.task.params:
                p.add_(p.grad, alpha=-self.hp.lr)
        return loss

    def evaluate_view(self):
        return [p.detach() * self.scale for p in self.task.params]

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
