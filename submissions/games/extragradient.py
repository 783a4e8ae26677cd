"""Extragradient: a step from here with the gradient that is found one step ahead.

Korpelevich, "The extragradient method for finding saddle points and other problems", 1976.

    h = prox(z − lr·F(z), lr);  z ← prox(z − lr·F(h), lr)

F is the gradient as `backward` leaves it: in a game, with the maximising player's sign changed.
Both calls see the same batch. prox is of the loss's rest (task.composite), the identity if none.

State: none.
Departures from the paper: an optional cosine decay of lr, for stochastic gradients.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

PASSES = {"forward_backward": 2}
TRACKS = ["train", "game"]
SPACE = {
    "lr": {"log": [0.03, 1.0]},
    "decay": {"choice": [False, True]},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp

    def step(self):
        task, batch = self.task, self.task.next_batch()
        lr = self.hp.lr * (warmup_cosine(task.progress, 0.0) if self.hp.decay else 1.0)
        z = ops.copies(task.params)
        loss = task.backward(batch, task.composite.smooth)
        self.move(z, lr)
        task.backward(batch, task.composite.smooth)
        self.move(z, lr)
        return loss

    @torch.no_grad()
    def move(self, z, lr):
        """Set the parameters to a proximal step from z along their gradient."""
        params = self.task.params
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        ahead = torch._foreach_sub(z, torch._foreach_mul(grads, lr))
        torch._foreach_copy_(params, self.task.composite.prox(ahead, lr))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
