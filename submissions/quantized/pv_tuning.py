"""PV-Tuning on grids: steps and offsets train, and at each step a few of the whole numbers change.

Malinovskii et al., "PV-Tuning: Beyond Straight-Through Estimation for Extreme LLM Compression",
arXiv 2405.14852.

    W' = low + δ·q of a row;  P: AdamW on low and δ
    V: w̃ ← w̃ - AdamW of ∂L/∂W' without momentum, from w̃ = W;  of the places where
    round((w̃ - low)/δ) ≠ q, the share `moved` of a matrix's with the largest |w̃ - W'| takes the
    new number

State: w̃ and AdamW's for it, three words per weight; AdamW's for the rest; q.
Departures from the paper: even grids of rows in place of vector codebooks, so the search for codes
is rounding; w̃ is kept from step to step, as in the authors' recipe.
"""

from types import SimpleNamespace

import torch
from torch import nn

from harness import ops, surgery
from submissions.first_order import adamw
from submissions.quantized import rtn

TRACKS = ["compress"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [1e-4, 1e-2]},
    "wd": 0.0,
    "beta2": 0.95,
    # Of steps and offsets.
    "head_lr": {"log": [1e-5, 1e-3], "default": 3e-5},
    # β1 of w̃.
    "latent_beta1": 0.0,
    "bits": {"int": [2, 8], "default": 4, "goal": "bits"},
    "moved": {"log": [1e-3, 0.1], "default": 0.01},
}


class Points(torch.autograd.Function):
    """low + step·q, with its gradient also for the weights that q is a rounding of."""

    @staticmethod
    def forward(ctx, weight, step, low, q):
        ctx.save_for_backward(q)
        return low + step * q

    @staticmethod
    def backward(ctx, grad):
        (q,) = ctx.saved_tensors
        return grad, (grad * q).sum(1, keepdim=True), grad.sum(1, keepdim=True), None


class Coded(surgery.Adapted):
    def __init__(self, linear, bits):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        step, low = rtn.grid(self.weight.detach(), bits)
        self.step, self.low, self.top = nn.Parameter(step), nn.Parameter(low), 2**bits - 1
        self.register_buffer("q", self.wanted())

    def wanted(self):
        place = (self.weight.detach() - self.low.detach()) / self.step.detach()
        return place.round().clamp(0, self.top)

    def dense(self):
        return Points.apply(self.weight, self.step, self.low, self.q)

    @torch.no_grad()
    def move(self, share):
        """Change at most a share of the numbers, those farthest from what is wanted."""
        new, now = self.wanted(), self.low + self.step * self.q
        gap = torch.where(new != self.q, (self.weight - now).abs(), -1.0).flatten()
        best = gap.topk(max(1, int(share * gap.numel()))).indices
        best = best[gap[best] >= 0]
        self.q.view(-1)[best] = new.view(-1)[best]


def adapt(model, task, hp):
    surgery.replace(model, lambda linear: Coded(linear, hp.bits))


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.maps = task, hp, list(surgery.matrices(task.model).values())
        latent, grids = (
            [m.weight for m in self.maps],
            [p for m in self.maps for p in (m.step, m.low)],
        )
        known = {id(p) for p in [*latent, *grids]}
        rest = [p for p in task.params if id(p) not in known]
        self.groups = {"latent": latent, "grids": grids, "rest": rest}
        own = {"latent": {"beta1": hp.latent_beta1}, "grids": {"lr": hp.head_lr}, "rest": {}}
        self.own = {key: SimpleNamespace(**vars(hp) | values) for key, values in own.items()}
        self.state = {key: adamw.init(params, hp) for key, params in self.groups.items()}

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        for key, params in self.groups.items():
            ops.apply(adamw.update, params, self.state[key], self.own[key], self.task.progress)
        for m in self.maps:
            m.move(self.hp.moved)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
