"""APT: heads and neurons go while adapters grow, in one fine-tuning.

Zhao et al., "APT: Adaptive Pruning and Tuning Pretrained Language Models for Efficient Training and
Inference", arXiv 2401.12200.

    salience of a head or neuron: s ← β·s + (1 − β)·|Σ activation·gradient| over its outputs
    every `every` of the horizon until `end`: units of the least salience for their cost go, until
    the operations are 1 − (1 − f)·(1 − (1 − t/end)³) of the dense model's, f the goal's
    adapters grow as increlora's

State: increlora's; a salience for each head and neuron; which of them are on.
Departures from the paper: growth by increlora's rule, in place of the sum of |A ∂A|; no
distillation from a copy of the model; no kurtosis in the salience. Not compared with the paper's
text.
"""

import math

import torch

from harness import structure, surgery
from submissions.peft import adalora, increlora

TRACKS = ["finetune"]
SPACE = {
    **increlora.SPACE,
    "flops": {"linear": [0.2, 1.0], "default": 0.6, "goal": "flops"},
    "keep": 0.85,  # β
    "every": 0.05,
    "end": {"linear": [0.3, 0.8], "default": 0.6},
}


class Pruned(adalora.AdaLoRA):
    """A matrix with an adapter, of which rows and columns can be off."""

    def __init__(self, linear, rank, alpha):
        super().__init__(linear, rank, alpha)
        self.register_buffer("rows", torch.ones_like(linear.weight[:, 0]))
        self.register_buffer("columns", torch.ones_like(linear.weight[0]))

    def dense(self):
        return super().dense() * self.rows[:, None] * self.columns

    def dense_bias(self):
        return self.bias * self.rows


def adapt(model, task, hp):
    structure.blocks(model)
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lambda out, n, r: 2 * r * (out + n + 1))
    surgery.replace(model, lambda linear: Pruned(linear, 2 * rank, hp.alpha))


def salience(weight, gradient, units):
    """Return |Σ activation·gradient| of each unit, [units], from a map that reads their outputs.

    Over tokens Σ x_j·∂L/∂x_j = Σ_o W_oj·∂L/∂W_oj.
    """
    return (weight * gradient).sum(0).view(units, -1).sum(1).abs()


class Algorithm(increlora.Algorithm):
    def __init__(self, task, hp):
        super().__init__(task, hp)
        self.blocks = structure.blocks(task.model)
        # Of each map that reads the outputs of heads or neurons: their number.
        self.units = {b.project: b.heads for b in self.blocks}
        self.units |= {b.down: structure.neurons(b) for b in self.blocks}
        order = [m for b in self.blocks for m in (b.project, b.down)]
        self.salience = {m: torch.zeros(self.units[m]) for m in order}
        self.on = {m: torch.ones(self.units[m], dtype=torch.bool) for m in order}
        x = task.calibration(1)
        costs = structure.costs(task.model, x, "flops")
        self.cost = torch.cat([torch.full((self.units[m],), c) for m, c in zip(order, costs)])
        own = sum(2 * m.lam.numel() * m.weight.numel() for m in self.maps)
        self.whole = structure.operations(task.model, x)[0] - own

    def score(self, m):
        if m in self.units:
            fresh = salience(m.dense(), m.weight.grad, self.units[m]).cpu()
            kept = self.hp.keep * self.salience[m] + (1 - self.hp.keep) * fresh
            self.salience[m] = torch.where(self.on[m], kept, 0.0)
        return super().score(m)

    def step(self):
        task, hp = self.task, self.hp
        loss = super().step()
        length, end = max(1, round(hp.every * task.horizon)), max(1, round(hp.end * task.horizon))
        done = task.step + 1
        if done == end or (done < end and done % length == 0):
            self.prune(1 - (1 - done / end) ** 3)
        return loss

    @torch.no_grad()
    def prune(self, share):
        """Switch units off until this share of what must go has gone."""
        needed = math.ceil(round(share * (1 - self.hp.flops) * self.whole, 6))
        off = ~torch.cat(list(self.on.values()))
        density = torch.cat(list(self.salience.values())) / self.cost
        order = density.masked_fill(off, -1.0).argsort(stable=True)
        count = int((self.cost[order].cumsum(0) < needed).sum()) + (needed > 0)
        kept = torch.ones_like(off)
        kept[order[: max(count, int(off.sum()))]] = False
        for m, part in zip(self.on, kept.split(list(self.units_in_order())), strict=True):
            self.on[m] = part
        for block in self.blocks:
            heads, neurons = (self.on[m].to(m.rows) for m in (block.project, block.down))
            columns = heads.repeat_interleave(structure.width_of_head(block))
            block.qkv.rows.copy_(columns.repeat(3))
            block.project.columns.copy_(columns)
            block.up.rows.copy_(neurons)
            block.down.columns.copy_(neurons)

    def units_in_order(self):
        return [self.units[m] for m in self.on]

    def state_dict(self):
        own = {"salience": list(self.salience.values()), "on": list(self.on.values())}
        return super().state_dict() | own

    def load_state_dict(self, state):
        for name in ("salience", "on"):
            known = getattr(self, name)
            setattr(self, name, dict(zip(known, state.pop(name), strict=True)))
        super().load_state_dict(state)
