"""PELA: every matrix becomes a product of two, which first learn to imitate the dense model.

Guo et al., "PELA: Learning Parameter-Efficient Models with Low-Rank Approximation",
arXiv 2310.10700.

    W ≈ B·A, B = U_r·√Σ_r, A = √Σ_r·V_rᵀ of the SVD, r = in·out/(c·(in + out)); not the maps behind
    attention
    in the first `warm` of the horizon:  L = loss + MSE of the last block's outputs + MSE of the
    scores, both against the dense model, + bound·mean over matrices of mean max(|B·A − W| − ε, 0),
    ε a share of the matrix's largest weight
    then L = loss;  c is the least that meets the goal's size

State: AdamW's two words per parameter; the dense weights while they teach.
Departures from the paper: the terms' weights, ε and the length of the first phase are ours, and
were not compared with the paper's text; both phases train the factors and all other parameters.
"""

import torch
import torch.nn.functional as F
from torch import nn

from harness import ops, structure, surgery
from harness.errors import UserError
from submissions.first_order import adamw
from submissions.sparse import distil

TRACKS = ["compress"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [3e-4, 1e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "size": {"linear": [0.3, 1.0], "default": 0.75, "goal": "size"},
    "warm": {"linear": [0.0, 0.8], "default": 0.4},
    "weight": {"log": [0.01, 1.0], "default": 0.1},  # of the two mean squares
    "bound": {"log": [0.1, 100.0], "default": 1.0},
    "slack": 0.01,  # ε, of the largest weight
}


class Factored(surgery.Adapted):
    """A product of two matrices in place of one; the one itself while `exact`."""

    exact = False

    def __init__(self, linear, rank):
        super().__init__(linear)
        u, s, v = torch.linalg.svd(linear.weight.detach().double(), full_matrices=False)
        root = s[:rank].sqrt()
        self.b = nn.Parameter((u[:, :rank] * root).to(linear.weight).contiguous())
        self.a = nn.Parameter((root[:, None] * v[:rank]).to(linear.weight).contiguous())

    def dense(self):
        return self.weight if self.exact else self.b @ self.a


def rank_of(weight, c):
    out, inputs = weight.shape
    return max(1, int(out * inputs / (c * (out + inputs))))


def ranks(weights, budget):
    """Return the largest ranks of one c at which factors have at most `budget` scalars."""
    low, high = 1.0, 1e4
    for _ in range(60):
        c = (low * high) ** 0.5
        cost = sum(rank_of(w, c) * sum(w.shape) for w in weights)
        low, high = (low, c) if cost <= budget else (c, high)
    return [rank_of(w, high) for w in weights]


def adapt(model, task, hp):
    whole = sum(p.numel() for p in model.parameters())
    behind = {block.project for block in structure.blocks(model)}
    chosen = [m for m in surgery.matrices(model).values() if m not in behind]
    budget = sum(m.weight.numel() for m in chosen) - (1 - hp.size) * whole
    least = sum(sum(m.weight.shape) for m in chosen)
    if budget < least:
        share = 1 - (sum(m.weight.numel() for m in chosen) - least) / whole
        raise UserError(f"a size of {hp.size:g} leaves no rank", f"{share:.2f} or more")
    known = dict(zip(chosen, ranks([m.weight for m in chosen], budget), strict=True))

    def factored(linear):
        if linear in behind:
            return linear
        return Factored(linear, known[linear])

    surgery.replace(model, factored)


class Algorithm(distil.Algorithm):
    def compress(self):
        self.maps = [m for m in surgery.matrices(self.task.model).values() if hasattr(m, "exact")]
        self.scales = [self.hp.slack * float(m.weight.detach().abs().max()) for m in self.maps]
        self.last = structure.blocks(self.task.model)[-1]

    def step(self):
        if self.task.progress < self.hp.warm:
            self.seen = []
            hook = self.last.register_forward_hook(lambda block, x, y: self.seen.append(y))
            try:
                return super().step()
            finally:
                hook.remove()
        self.dense = {}
        loss = self.task.forward_backward(self.task.next_batch())
        ops.apply(adamw.update, self.task.params, self.state, self.hp, self.task.progress)
        return loss

    def loss(self, model, batch, teacher):
        hp, scores = self.hp, model(batch["inputs"])
        value = F.cross_entropy(scores.flatten(0, -2), batch["targets"].flatten())
        apart = F.mse_loss(scores, teacher) + F.mse_loss(self.seen[-1], self.seen[0].detach())
        over = [((m.dense() - m.weight).abs() - s).clamp(min=0).mean()
                for m, s in zip(self.maps, self.scales, strict=True)]  # fmt: skip
        return value + hp.weight * apart + hp.bound * torch.stack(over).mean()

    @torch.no_grad()
    def swap(self, values, teaching):
        super().swap(values, teaching)
        for m in self.maps:
            m.exact = teaching
