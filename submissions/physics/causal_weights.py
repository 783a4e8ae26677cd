"""Causal weights: residuals at later times count once those at earlier times are small.

Wang, Sankaran, Perdikaris, "Respecting causality is all you need for training physics-informed
neural networks", arXiv 2203.07404.

    the points in order of time are `chunks` of equal number, with mean squares L_m
    w_m = exp(−tolerance·Σ_{k<m} L_k);  loss: mean of w_m·L_m, and the conditions

State: uniform's; L of each chunk.
Departures from the paper: w is of the L of the step before, which saves a pass; time is the last
coordinate, whether or not it is time; the tolerance is constant.
"""

import torch

from submissions.samplers import uniform

SPACE = {
    **uniform.SPACE,
    "chunks": {"choice": [32, 16, 64]},
    "tolerance": {"log": [1e-2, 1e2], "default": 1.0},
}


class Algorithm(uniform.Algorithm):
    def chunk(self, points):
        """Return the number of each point's chunk, [B]."""
        order = torch.empty(len(points), dtype=torch.int64, device=points.device)
        order[points[:, -1].argsort(stable=True)] = torch.arange(len(points), device=points.device)
        return order * self.hp.chunks // len(points)

    def weights(self, points):
        if "losses" not in self.state:
            return None
        before = self.state["losses"].cumsum(0) - self.state["losses"]
        return {"residual": (-self.hp.tolerance / 2 * before).exp()[self.chunk(points)]}

    def observe(self, points, residuals):
        where, zero = self.chunk(points), residuals.new_zeros(self.hp.chunks)
        total = zero.index_add(0, where, residuals.square())
        count = zero.index_add(0, where, torch.ones_like(residuals))
        self.state["losses"] = total / count.clamp(min=1)
        super().observe(points, residuals)
