"""MASHA: extragradient of four workers that send compressed differences to a reference point.

Beznosikov, Richtárik, Diskin, Ryabinin and Gasnikov, "Distributed Methods with Compressed
Communication for Solving Variational Inequalities", arXiv 2110.03313 (MASHA1).

    h = τ·z + (1 − τ)·w − lr·F(w),  τ = 9/10
    worker i sends C_i(F_i(h) − F_i(w));  z ← h − lr·mean of what was sent
    with probability 1 − τ the reference w is the new z, and F(w) is computed on a whole batch

C keeps a random `share` of the elements, divided by the share, so its mean is the vector itself.
Each worker has a quarter of the step's batch. F is the gradient as `backward` leaves it.

State: w and F(w), two words per parameter.
Departures from the paper: the rule is from its abstract and the variance-reduced extragradient that
it builds on (arXiv 2102.08352); F_i(w) is computed again on the worker's quarter.
"""

import torch

from harness import ops

WORKERS, KEEP = 4, 0.9
PASSES = {"forward_backward@batch=1/4": 8, "forward_backward": 0.1}
TRACKS = ["train", "game"]
SPACE = {"lr": {"log": [0.03, 1.0]}, "share": {"choice": [0.25, 0.1, 1.0]}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = {"w": ops.copies(task.params), "F": ops.zeros(task.params), "begun": False}

    def operator(self, point, batch):
        """Return the loss and F of the batch at a point."""
        params = self.task.params
        torch._foreach_copy_([p.data for p in params], point)
        loss = self.task.forward_backward(batch)
        return loss, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in params]

    def sent(self, difference):
        """Return a random share of the elements of each tensor, divided by the share."""
        share, kept = self.hp.share, []
        for x in difference:
            mask = torch.rand(x.shape, generator=self.task.rng) < share
            kept.append(x * mask.to(x) / share)
        return kept

    def renew(self, point):
        """Make a point the reference, and compute F there on a whole batch."""
        loss, self.state["F"] = self.operator(point, self.task.next_batch())
        self.state["w"] = [x.clone() for x in point]
        return loss

    def step(self):
        task, hp, state = self.task, self.hp, self.state
        if not state["begun"]:
            self.renew(ops.copies(task.params))
            state["begun"] = True
        ahead = torch._foreach_lerp(ops.copies(task.params), state["w"], 1 - KEEP)
        torch._foreach_add_(ahead, state["F"], alpha=-hp.lr)
        z, losses = [x.clone() for x in ahead], []
        for _ in range(WORKERS):
            batch = task.next_batch(task.batch_size // WORKERS)
            loss, there = self.operator(ahead, batch)
            _, here = self.operator(state["w"], batch)
            losses.append(loss)
            message = self.sent(torch._foreach_sub(there, here))
            torch._foreach_add_(z, message, alpha=-hp.lr / WORKERS)
        if float(torch.rand((), generator=task.rng)) >= KEEP:
            self.renew(z)
        torch._foreach_copy_([p.data for p in task.params], z)
        return torch.stack(losses).mean()

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
