"""Past extragradient: one gradient a step; the last one seen takes the place of the first.

Popov, 1980; the three forms: Hsieh, Iutzeler, Malick and Mertikopoulos, arXiv 1908.08465;
reflected: Malitsky, arXiv 1502.04968; two step sizes: Hsieh et al., arXiv 2206.06015 (OG+).

    past         h = prox(z − γ·F(h₋), γ);  z ← prox(z − lr·F(h), lr)
    reflected    h = z + (γ/lr)·(z − z₋);   z ← prox(z − lr·F(h), lr)
    optimistic   z ← prox(z − (lr + γ)·F(z) + γ·F(z₋), lr)
    γ = boldness·lr,  F(h₋) = 0 and z₋ = z at first

F is the gradient as `backward` leaves it. Without a set or penalty and with one batch the forms are
the same up to which point is evaluated (z, or h for optimistic) and to the start.

State: the last gradient or point, one word per parameter.
Departures from the paper: an optional cosine decay of lr, for stochastic gradients.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

TRACKS = ["train", "game"]
SPACE = {
    "form": {"choice": ["past", "reflected", "optimistic"]},
    "lr": {"log": [0.02, 0.6]},
    "boldness": {"choice": [1.0, 2.0]},
    "decay": {"choice": [False, True]},
}
VARIANTS = {
    "reflected_gradient": {"form": "reflected", "boldness": 1.0},
    "optimistic_gradient": {"form": "optimistic", "boldness": 1.0},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        reflected = hp.form == "reflected"
        self.last = ops.copies(task.params) if reflected else ops.zeros(task.params)

    def step(self):
        task, hp, last = self.task, self.hp, self.last
        lr = hp.lr * (warmup_cosine(task.progress, 0.0) if hp.decay else 1.0)
        z = ops.copies(task.params)
        with torch.no_grad():
            if hp.form == "past":
                self.put(torch._foreach_sub(z, torch._foreach_mul(last, hp.boldness * lr)), lr)
            elif hp.form == "reflected":
                ahead = torch._foreach_mul(torch._foreach_sub(z, last), hp.boldness)
                torch._foreach_add_(task.params, ahead)
        loss = task.backward(task.next_batch(), task.composite.smooth)
        with torch.no_grad():
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in task.params]
            way = torch._foreach_mul(grads, lr)
            if hp.form == "optimistic":
                newer = torch._foreach_sub(grads, last)
                torch._foreach_add_(way, torch._foreach_mul(newer, hp.boldness * lr))
            self.put(torch._foreach_sub(z, way), lr)
            self.last = z if hp.form == "reflected" else [g.clone() for g in grads]
        return loss

    def put(self, values, lr):
        """Set the parameters to the proximal point of these values."""
        torch._foreach_copy_(self.task.params, self.task.composite.prox(values, lr))

    def state_dict(self):
        return {"last": self.last}

    def load_state_dict(self, state):
        self.last = state["last"]
