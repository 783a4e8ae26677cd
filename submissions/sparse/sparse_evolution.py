"""SET: sparse training that drops weights near zero and grows others anywhere at random.

Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity
inspired by network science", arXiv 1707.04780.

    densities of matrices ∝ (in + out)/(in·out) (Erdős-Rényi)
    every `period` steps until `until` of the horizon, in every matrix: drop the share ζ of the
    smallest positive weights and the share ζ of the negative ones nearest to zero, and activate as
    many empty places at random, at zero

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: the first mask is by magnitude, because the weights are trained; a period
is not an epoch; changes end before the horizon does. AdamW in place of SGD.
"""

import torch

from harness import ops
from submissions.first_order import adamw
from submissions.sparse import magnitude, rigl

TRACKS = ["compress"]
# ζ is `fraction`.
SPACE = {**rigl.SPACE, "densities": "erdos_renyi", "start": "magnitude", "fraction": 0.3}


class Algorithm(rigl.Algorithm):
    def step(self):
        task, hp = self.task, self.hp
        if task.step and task.step % hp.period == 0 and task.step < hp.until * task.horizon:
            for w in self.weights:
                self.move(w, hp.fraction)
        loss = task.forward_backward(task.next_batch())
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return loss

    @torch.no_grad()
    def move(self, w, fraction):
        active, stays = self.task.masks.of(w), torch.zeros_like(w, dtype=torch.bool)
        for sign in (1, -1):
            own = active & ((w >= 0) if sign > 0 else (w < 0))
            count = int(own.sum()) - int(fraction * int(own.sum()))
            stays |= magnitude.top(torch.where(own, w.abs(), -1.0).view(1, -1), count).view_as(w)
        chance = torch.rand(w.shape, generator=self.task.rng).to(w)
        chance = torch.where(active, -1.0, chance).view(1, -1)
        grown = magnitude.top(chance, int(active.sum()) - int(stays.sum()))
        self.task.masks.set(w, stays | grown.view_as(w))
