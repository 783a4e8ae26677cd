"""Convex ADMM for two-layer ReLU networks: a group lasso over activation patterns, solved exactly.

Bai, Gautam and Sojoudi, "Efficient Global Optimization of Two-Layer ReLU Networks: Quadratic-Time
Algorithms and Adversarial Training", arXiv 2201.01965, Algorithm 3.1; the convex problem: Pilanci
and Ergen, arXiv 2002.10553.

    patterns D_i = diag([Xg_i ≥ 0]), g_i ~ N(0, I);  F = [D_iX ... −D_iX],  G = diag((2D_i − I)X)
    u ← (I + FᵀF/ρ + GᵀG)⁻¹·(Fᵀy/ρ + v − λ + Gᵀ(s − ν))
    v_b ← (1 − nβ/(ρ·‖u_b + λ_b‖))₊·(u_b + λ_b);  s ← (Gu + ν)₊
    λ ← λ + u − v;  ν ← ν + Gu − s
    network: a unit v_b/√‖v_b‖ with the output ±√‖v_b‖ for every block

β is the model's `ridge`; n because its loss is a mean. For two-layer ReLU models without biases and
squared errors alone. All linear algebra is outside of the counted passes, and charged by its time.

State: v, λ (two words per parameter), s, ν (a word per unit and example); the patterns.
Departures from the paper: one pattern for two units, so a network of width w has w/2 patterns; the
inverse is by blocks of X's size and one matrix of n rows, not of a Cholesky factor of all.
"""

import torch

from harness.errors import UserError

PASSES = {"forward": 1}
SPACE = {"rho": {"log": [1e-3, 1.0]}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        kinds = [role.kind for role in task.roles]
        ridge = getattr(task.model, "ridge", None)
        if kinds != ["hidden", "readout"] or not ridge:
            raise UserError(
                "convex_admm needs a two-layer ReLU model with squared errors and a ridge",
                "workload=two_layer_relu",
                "harness list workloads",
            )
        data = task.gather(torch.arange(task.examples))
        self.x, self.y = data["inputs"], data["targets"]
        self.weight = task.examples * ridge
        width, features = task.params[0].shape
        directions = torch.randn(features, width // 2, generator=task.rng, dtype=torch.float64)
        # [patterns, examples]: 1 where a unit is active.
        self.active = (self.x @ directions.to(self.x) >= 0).to(self.x).T.contiguous()
        zeros = self.x.new_zeros
        shape = (2, width // 2, features)
        self.v, self.dual = zeros(shape), zeros(shape)
        self.s, self.slack = zeros(*shape[:2], len(self.x)), zeros(*shape[:2], len(self.x))
        self.prepare()

    def prepare(self):
        """Factor what u solves: blocks K = I + XᵀX, and ρI + F·K⁻¹·Fᵀ."""
        x = self.x
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        self.block = torch.linalg.cholesky(eye + x.T @ x)
        inner = x @ torch.cholesky_solve(x.T.contiguous(), self.block)
        outer = 2 * inner * (self.active.T @ self.active)
        outer.diagonal().add_(self.hp.rho)
        self.outer = torch.linalg.cholesky(outer)

    def predicted(self, u):
        """Return F·u, [n], of u [2, patterns, features]."""
        return ((u[0] - u[1]) @ self.x.T * self.active).sum(dim=0)

    def pulled(self, r):
        """Return Fᵀr, [2, patterns, features]."""
        half = (self.active * r) @ self.x
        return torch.stack([half, -half])

    def solved(self, u):
        """Return K⁻¹ times every block of u."""
        return torch.cholesky_solve(u.reshape(-1, u.shape[-1]).T, self.block).T.reshape(u.shape)

    @torch.no_grad()
    def step(self):
        rho, signs = self.hp.rho, 2 * self.active - 1
        right = self.pulled(self.y) / rho + self.v - self.dual
        right = right + (signs * (self.s - self.slack)) @ self.x
        # Woodbury: (K + FᵀF/ρ)⁻¹ = K⁻¹ − K⁻¹Fᵀ(ρI + F·K⁻¹·Fᵀ)⁻¹F·K⁻¹.
        u = self.solved(right)
        middle = torch.cholesky_solve(self.predicted(u)[:, None], self.outer)[:, 0]
        u = u - self.solved(self.pulled(middle))
        moved = u + self.dual
        norms = moved.norm(dim=2, keepdim=True).clamp(min=1e-300)
        self.v = (1 - self.weight / (rho * norms)).clamp(min=0) * moved
        margins = signs * (u @ self.x.T)
        self.s = (margins + self.slack).clamp(min=0)
        self.dual, self.slack = moved - self.v, self.slack + margins - self.s
        self.write()
        return self.task.forward(self.task.next_batch())

    def write(self):
        """Make the model the network of v; units without a block are zero."""
        hidden, readout = self.task.params
        size = self.v.norm(dim=2).sqrt()
        units = self.v / size.clamp(min=1e-300)[:, :, None]
        outputs = torch.stack([size[0], -size[1]])
        hidden.zero_()
        readout.zero_()
        hidden[: 2 * len(self.active)] = units.flatten(0, 1)
        readout[0, : 2 * len(self.active)] = outputs.flatten()

    def state_dict(self):
        return {
            "active": self.active, "v": self.v, "dual": self.dual, "s": self.s,
            "slack": self.slack,
        }  # fmt: skip

    def load_state_dict(self, state):
        self.active, self.v, self.dual = state["active"], state["v"], state["dual"]
        self.s, self.slack = state["s"], state["slack"]
        self.prepare()
