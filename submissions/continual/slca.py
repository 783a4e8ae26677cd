"""SLCA: a slow learner with an aligned classifier, for streams that start from trained weights.

Zhang et al., "SLCA: Slow Learner with Classifier Alignment for Continual Learning on a Pre-trained
Model", arXiv 2303.05118.

    SGD with momentum: the readout at lr, everything else at lr/slower
    L = cross-entropy over the classes of the present task alone
    at a task's end, for each class c that came in task t_c of T so far:
        features ~ N((0.9 + 0.1·(t_c + 1)/T)·μ_c, Σ_c + 1e-4·I), `drawn` of them in each epoch
        the readout descends the cross-entropy of s/(0.1·mean_t ‖s_t‖), s_t the scores of task t's
        classes, by SGD with momentum and a cosine over `epochs`

State: m, one word per parameter; a mean, a square and a count of features for each class.
Departures from the paper: μ and Σ are over the last `late` of a task's steps, in which the weights
still move, because a stream gives no second look at its examples. The rule was compared with a
description of the authors' code, not with the paper's text.
"""

import math

import torch
import torch.nn.functional as F

from harness import ops, surgery
from harness.memory import labels

TRACKS = ["continual"]
SPACE = {
    "lr": {"log": [1e-3, 0.1], "default": 0.02},
    "slower": {"choice": [100, 10, 1000]},
    "late": {"choice": [0.3, 0.1, 1.0]},
    "epochs": {"choice": [5, 20]},
    "drawn": {"choice": [256, 64]},
    "momentum": 0.9,
    "wd": 5e-4,
    "ridge": 1e-4,
    "temperature": 0.1,
}


def decoupled(scores, tasks, temperature):
    """Return scores [B, C] over their mean norm within a task, times the temperature."""
    norms = torch.stack([scores[:, columns].norm(dim=1) for columns in tasks], dim=1) + 1e-7
    return scores / norms.mean(dim=1, keepdim=True) / temperature


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        own = {id(p) for p in surgery.head(task.model)}
        self.rates = [hp.lr if id(p) in own else hp.lr / hp.slower for p in task.params]
        self.readout = surgery.readout(task.model)
        # Of each class by its number: the task that it came in, and sums over its features.
        self.state = {"m": ops.zeros(task.params), "task": -1, "of": {}, "seen": {}}

    def step(self):
        task, hp, state = self.task, self.hp, self.state
        first, length = task.segment
        if task.boundary:
            state["task"] += 1
        batch = task.next_batch()
        state["of"] |= {str(c): state["task"] for c in labels(batch).unique().tolist()
                        if str(c) not in state["of"]}  # fmt: skip
        present = self.columns(state["task"])
        kept = {}

        def loss(model, batch):
            kept["features"] = task.features(batch)
            scores = self.readout(kept["features"])
            others = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
            others[present] = False
            return task.nats(scores.masked_fill(others, -1e9), batch).mean()

        value = task.backward(batch, loss)
        with torch.no_grad():
            for p, m, rate in zip(task.params, state["m"], self.rates, strict=True):
                m.mul_(hp.momentum).add_(p.grad + hp.wd * p)
                p.sub_(m, alpha=rate)
            last = first + length - 1
            if task.step >= min(first + (1 - hp.late) * length, last):
                self.grow(kept["features"].detach(), labels(batch))
        if task.step == last:
            self.align()
        return value

    def columns(self, number):
        """Return the classes that came in a task."""
        return sorted(int(c) for c, t in self.state["of"].items() if t == number)

    def grow(self, features, classes):
        """Add features [B, d] to the sums of their classes."""
        seen = self.state["seen"]
        for c in classes.unique().tolist():
            x = features[classes == c].double()
            new = {"sum": x.sum(0), "square": x.T @ x, "count": len(x)}
            old = seen.get(str(c))
            seen[str(c)] = {k: old[k] + v for k, v in new.items()} if old else new

    def gaussian(self, c):
        """Return the moved mean [d] and a root [d, d] of the covariance of a class's features."""
        one, hp = self.state["seen"][c], self.hp
        mean = one["sum"] / one["count"]
        covariance = one["square"] / one["count"] - torch.outer(mean, mean)
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * (values.clamp(min=0) + hp.ridge).sqrt() @ vectors.T
        share = (self.state["of"][c] + 1) / (self.state["task"] + 1)
        return (0.9 + 0.1 * share) * mean, root

    @torch.enable_grad()
    def align(self):
        """Train the readout on features drawn for all classes so far."""
        hp, rng = self.hp, self.task.rng
        known = sorted(self.state["seen"], key=int)
        tasks = [c for t in range(self.state["task"] + 1) if (c := self.columns(t))]
        normal = [self.gaussian(c) for c in known]
        params = list(self.readout.parameters())
        like, moved = params[0], ops.zeros(params)
        targets = torch.tensor([int(c) for c in known]).repeat_interleave(hp.drawn)
        for epoch in range(hp.epochs):
            drawn = [
                mean + torch.randn(hp.drawn, len(mean), generator=rng).to(mean) @ root.T
                for mean, root in normal
            ]
            order = torch.randperm(len(targets), generator=rng)
            x, y = torch.cat(drawn).to(like)[order], targets[order].to(like.device)
            rate = hp.lr * 0.5 * (1 + math.cos(math.pi * epoch / hp.epochs))
            for some, answers in zip(x.split(hp.drawn), y.split(hp.drawn), strict=True):
                scores = decoupled(self.readout(some), tasks, hp.temperature)
                others = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
                others[[int(c) for c in known]] = False
                value = F.cross_entropy(scores.masked_fill(others, -1e9), answers)
                grads = torch.autograd.grad(value, params)
                with torch.no_grad():
                    for p, m, g in zip(params, moved, grads, strict=True):
                        m.mul_(hp.momentum).add_(g + hp.wd * p)
                        p.sub_(m, alpha=rate)

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
