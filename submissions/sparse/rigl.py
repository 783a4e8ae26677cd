"""RigL: sparse training that drops small weights and grows those with a large gradient.

Evci et al., "Rigging the Lottery: Making All Tickets Winners", arXiv 1911.11134.

    every `period` steps until `until` of the horizon, in every matrix: drop the share
    f = fraction/2·(1 + cos(π·t/T_end)) of the active weights with the smallest |w|, activate as
    many inactive ones with the largest |g|, at zero, with their state at zero
    densities: Erdős-Rényi, ∝ (in + out)/(in·out), or "uniform"

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: the first mask is by magnitude, because the weights are trained (start
"random" is the paper's); AdamW in place of SGD.
"""

import math

import torch

from harness import ops, surgery
from submissions.first_order import adamw
from submissions.sparse import magnitude

TRACKS = ["compress"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [3e-4, 1e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "sparsity": {"linear": [0.0, 0.99], "default": 0.8, "goal": "sparsity"},
    "densities": {"choice": ["erdos_renyi", "uniform"]},
    "start": {"choice": ["magnitude", "random"]},
    "period": 20,
    "until": 0.75,
    "fraction": 0.3,
}


def densities(shapes, density, kind):
    """Return each matrix's density; matrices that would exceed 1 are dense, the others sparser."""
    sizes, dense = [o * i for o, i in shapes], set()
    if kind == "uniform":
        return [density] * len(shapes)
    raw = [(o + i) / (o * i) for o, i in shapes]
    while True:
        left = density * sum(sizes) - sum(sizes[k] for k in dense)
        scale = left / sum(raw[k] * sizes[k] for k in range(len(sizes)) if k not in dense)
        new = {k for k in range(len(sizes)) if k not in dense and raw[k] * scale > 1}
        if not new:
            return [1.0 if k in dense else raw[k] * scale for k in range(len(sizes))]
        dense |= new


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.weights = surgery.weights(task.model)
        each = densities([w.shape for w in self.weights], 1 - hp.sparsity, hp.densities)
        for w, density in zip(self.weights, each):
            score = w.detach().abs()
            if hp.start == "random":
                score = torch.rand(w.shape, generator=task.rng).to(w)
            task.masks.set(w, magnitude.kept([score], 1 - density)[0])
        self.state = adamw.init(task.params, hp)

    def step(self):
        task, hp = self.task, self.hp
        end = hp.until * task.horizon
        if task.step and task.step % hp.period == 0 and task.step < end:
            with task.masks.lifted():
                loss = task.forward_backward(task.next_batch())
            fraction = hp.fraction / 2 * (1 + math.cos(math.pi * task.step / end))
            for w in self.weights:
                self.move(w, fraction)
            return loss
        loss = task.forward_backward(task.next_batch())
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return loss

    @torch.no_grad()
    def move(self, w, fraction):
        active = self.task.masks.of(w)
        count = int(fraction * int(active.sum()))
        stays = torch.where(active, w.abs(), -1.0).view(1, -1)
        stays = magnitude.top(stays, int(active.sum()) - count).view_as(w)
        growth = torch.where(active, -1.0, w.grad.abs()).view(1, -1)
        self.task.masks.set(w, stays | magnitude.top(growth, count).view_as(w))

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
