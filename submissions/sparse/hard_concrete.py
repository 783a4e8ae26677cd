"""Hard concrete gates: heads and neurons are switched off by learned random gates.

Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", arXiv 1712.01312; the
constraint by multipliers as in Xia et al., "Structured Pruning Learns Compact and Accurate Models"
(CoFi), arXiv 2204.00408.

    z = clip(1.2·σ((log u - log(1 - u) + a)/β) - 0.1, 0, 1),  u uniform, β = 2/3
    P(z > 0) = σ(a - β·log(0.1/1.1));  s = Σ P·cost over Σ cost
    loss + λ₁(s - t) + λ₂(s - t)²;  a descends, λ₁ and λ₂ ascend;  t falls from 1 to what the goal
    allows in the first `warm` of the horizon
    handed over: units of the smallest a are off, as many as t asks; z = σ(0.8·a/β) for the others

State: AdamW's for weights and gates, the two multipliers.
Departures from the paper: gates on heads and neurons alone, no distillation; the multipliers ascend
by plain gradient steps; a begins at `start`, in CoFi at 0, where every gate is half open.
"""

import math
from contextlib import contextmanager

import torch

from harness import structure
from submissions.peft import head_only
from submissions.sparse import flap
from submissions.sparse._gates import BETA, Gated, chance

TRACKS = ["compress"]
SPACE = {
    "lr": {"log": [3e-4, 1e-2]},
    "wd": 0.0,
    "beta1": 0.9,
    "beta2": 0.99,
    "eps": 1e-8,
    "warmup": 0.05,
    "head_lr": {"log": [1e-2, 3e-1]},  # of the gates
    "multiplier_lr": {"log": [1e-2, 10.0], "default": 1.0},
    "warm": 0.3,
    "start": {"linear": [0.0, 4.0], "default": 2.5},
    "size": {"linear": [0.05, 1.0], "default": 0.75, "goal": "size"},
    "flops": {"linear": [0.05, 1.0], "default": 1.0, "goal": "flops"},
}


def adapt(model, task, hp):
    for block in structure.blocks(model):
        width = structure.width_of_head(block)
        block.project = Gated(block.project, width, hp.start)
        block.down = Gated(block.down, 1, hp.start)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        blocks = structure.blocks(task.model)
        self.gates = [gate for block in blocks for gate in (block.project, block.down)]
        self.trainer = head_only.Trainer(task, hp, apart=[gate.a for gate in self.gates])
        name = "flops" if hp.flops < 1 else "size"
        each = torch.tensor([len(gate.a) for gate in self.gates])
        costs = torch.tensor(structure.costs(task.model, task.calibration(1), name))
        self.cost = costs.repeat_interleave(each).to(self.gates[0].a)
        # What has to go, of the units' common cost.
        self.gone = (1 - min(flap.shares(hp))) * self.whole(name)
        self.off = self.gone / float(self.cost.sum())
        self.multipliers = torch.zeros(2, dtype=self.cost.dtype)

    def whole(self, name):
        """Return the dense model's operations or parameters."""
        model = self.task.model
        if name == "flops":
            return structure.operations(model, self.task.calibration(1))[0]
        gates = sum(len(gate.a) for gate in self.gates)
        return sum(p.numel() for p in model.parameters()) - gates

    def target(self, progress):
        return 1 - self.off * min(1.0, progress / self.hp.warm)

    def by_gate(self, values):
        """Return values of all gates, split by the matrix that they belong to."""
        return values.split([len(gate.a) for gate in self.gates])

    @contextmanager
    def noisy(self):
        """Within the block, all gates have one draw of noise."""
        for gate in self.gates:
            u = torch.rand(gate.a.shape, generator=self.task.rng).clamp(1e-6, 1 - 1e-6)
            gate.drawn.copy_(u.log() - (1 - u).log())
            gate.noisy = True
        yield
        for gate in self.gates:
            gate.noisy = False

    def step(self):
        task = self.task
        with self.noisy():
            loss = task.forward_backward(task.next_batch())
        self.constrain()
        self.trainer.update()
        self.settle((task.step + 1) / task.horizon)
        return loss

    def expected(self, a):
        """Return the share of the cost that is expected to stay."""
        return (chance(a) * self.cost).sum() / self.cost.sum()

    def constrain(self):
        """Add the constraint's gradient to the gates', and move the multipliers."""
        a = torch.cat([gate.a.detach() for gate in self.gates]).requires_grad_()
        gap = self.expected(a) - self.target(self.task.progress)
        first, second = self.multipliers.tolist()
        (slope,) = torch.autograd.grad(first * gap + second * gap**2, a)
        for gate, part in zip(self.gates, self.by_gate(slope)):
            gate.a.grad.add_(part)
        moved = torch.stack([gap.detach(), gap.detach() ** 2]).cpu()
        self.multipliers += self.hp.multiplier_lr * moved

    def smallest(self, scores, cost, progress):
        """Return the places of the smallest scores, as many as their cost has to go by now."""
        needed = math.ceil(round(min(1.0, progress / self.hp.warm) * self.gone, 6))
        order = scores.argsort(stable=True)
        return order[: int((cost[order].cumsum(0) < needed).sum()) + (needed > 0)]

    @torch.no_grad()
    def settle(self, progress):
        """Set the gates that are handed over: the smallest off, the others without noise."""
        a = torch.cat([gate.a.detach() for gate in self.gates])
        z = (0.8 * a / BETA).sigmoid()
        z[self.smallest(a, self.cost, progress)] = 0.0
        for gate, part in zip(self.gates, self.by_gate(z)):
            gate.z.copy_(part)

    def state_dict(self):
        return {"adam": self.trainer.state, "multipliers": self.multipliers}

    def load_state_dict(self, state):
        self.trainer.state, self.multipliers = state["adam"], state["multipliers"]
