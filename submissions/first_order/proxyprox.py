"""ProxyProx: approximate proximal point steps on a cheap proxy, corrected by a true gradient.

Woodworth, Mishchenko and Bach, "Two Losses Are Better Than One: Faster Optimization Using a Cheaper
Proxy", arXiv 2302.03542.

    d = g(p) − ∇h(p);  x = p
    four times  x ← x − lr·(∇h(x) + d + (x − p)/η)
    p ← x

h is the loss on a fixed quarter of a batch of examples, drawn at the start. The inner steps
minimise h(x) + <d, x> + ‖x − p‖²/(2η). Only the difference of loss and proxy has to be smooth.

State: the numbers of the proxy's examples.
Departures from the paper: the proxy is a subset of the data; the number of inner steps and their
plain gradient steps are ours, because the paper leaves the inner solver open; lr is scheduled. The
rule was written from a summary: its constants were not compared with the text.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

STEPS = 4
PASSES = {"forward_backward": 1, "forward_backward@batch=1/4": 4}
SPACE = {"lr": {"log": [0.01, 1.0]}, "eta": {"log": [0.1, 100.0]}, "warmup": 0.05}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        drawn = torch.randperm(task.examples, generator=task.rng)
        self.proxy = drawn[: task.batch_size // 4]

    def gradient(self, batch):
        loss = self.task.forward_backward(batch)
        zero = torch.zeros_like
        return loss, [zero(p) if p.grad is None else p.grad.clone() for p in self.task.params]

    def step(self):
        task, hp = self.task, self.hp
        loss, true = self.gradient(task.next_batch())
        p, x = ops.copies(task.params), [w.data for w in task.params]
        proxy, lr = task.gather(self.proxy), hp.lr * warmup_cosine(task.progress, hp.warmup)
        for inner in range(STEPS):
            _, g = self.gradient(proxy)
            if inner == 0:
                d = torch._foreach_sub(true, g)
            way = torch._foreach_add(g, d)
            torch._foreach_add_(way, torch._foreach_sub(x, p), alpha=1.0 / hp.eta)
            torch._foreach_add_(x, way, alpha=-lr)
        return loss

    def state_dict(self):
        return {"proxy": self.proxy}

    def load_state_dict(self, state):
        self.proxy = state["proxy"]
