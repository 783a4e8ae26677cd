"""CoFi: gates switch off heads, neurons and whole halves of blocks, while the dense model teaches.

Xia et al., "Structured Pruning Learns Compact and Accurate Models", arXiv 2204.00408.

    gates as in submissions/sparse/hard_concrete.py: one for each head and neuron, and one for each
    attention and each perceptron; a unit's z is the product of its own and its half's
    s = Σ P(z > 0)·cost over Σ cost;  L = λ·T²·KL(p‖q) + (1 - λ)·Σ_i min_j mean (H_j·Mᵀ - H'_i)²
        + λ₁(s - t) + λ₂(s - t)²
    p, q: outputs of the dense model and ours, softened by T;  H'_i, H_j: of their blocks;  M: a
    matrix [width, width], the identity at first, which trains along

State: AdamW's for weights, gates and M; the two multipliers; the dense weights, which teach.
Departures from the paper: no gates on the residual width. Every block of the dense model teaches,
and it may teach any of ours; the authors take four of twelve, in order, for blocks that are left.
Which units go at the hand-over follows from their cost; the authors round the expected number of
zeros of each kind. λ and T are those of the authors' scripts, and labels play no part, as there.
The dense model's pass is charged by its seconds.
"""

import torch
from torch import nn
from torch.func import functional_call

from harness import ops, structure
from harness.schedules import warmup_cosine
from submissions.sparse import _gates, distil, hard_concrete

TRACKS = ["compress"]
SPACE = {
    **hard_concrete.SPACE,
    # λ
    "weight": {"choice": [0.1, 0.3, 0.5]},
    "temperature": 2.0,
}
SKIPS = {
    "descends": "it learns what the dense model answers, and the small problem's is not trained"
}


class Coarse(_gates.Gated):
    """A gated matrix with one more gate, the last, for all its channels."""

    def __init__(self, linear, group, start):
        super().__init__(linear, group, start)
        self.a = nn.Parameter(torch.cat([self.a.detach(), self.a.detach()[:1]]))
        self.register_buffer("z", torch.ones_like(self.a))
        self.register_buffer("drawn", torch.zeros_like(self.a))

    def dense(self):
        noisy = _gates.stretched((self.drawn + self.a) / _gates.BETA)
        z = noisy if self.noisy else self.z
        return self.weight * (z[:-1] * z[-1]).repeat_interleave(self.group)


def adapt(model, task, hp):
    for block in structure.blocks(model):
        width = structure.width_of_head(block)
        block.project = Coarse(block.project, width, hp.start)
        block.down = Coarse(block.down, 1, hp.start)


class Algorithm(hard_concrete.Algorithm):
    def __init__(self, task, hp):
        super().__init__(task, hp)
        # A half's own gate costs nothing: its units do.
        for cost in self.by_gate(self.cost):
            cost[-1] = 0.0
        self.off = self.gone / float(self.cost.sum())
        self.pretrained, width = task.pretrained(), self.gates[0].weight.shape[0]
        self.map = torch.eye(width).to(self.cost).requires_grad_()
        self.moments = {"m": torch.zeros_like(self.map), "v": torch.zeros_like(self.map)}

    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        hooks = [
            block.register_forward_hook(lambda block, x, y: self.seen.append(y))
            for block in structure.blocks(task.model)
        ]
        teacher, self.map.grad = self.taught(batch), None
        with self.noisy():
            loss = task.backward(batch, lambda model, batch: self.loss(model, batch, *teacher))
        for hook in hooks:
            hook.remove()
        self.constrain()
        self.trainer.update()
        lr, betas = hp.lr * warmup_cosine(task.progress, hp.warmup), (hp.beta1, hp.beta2)
        with torch.no_grad():
            moments = [[self.moments[k]] for k in "mv"]
            ops.adam_([self.map], [self.map.grad], *moments, task.step + 1, lr, betas, hp.eps)
        self.settle((task.step + 1) / task.horizon)
        return loss

    @torch.no_grad()
    def taught(self, batch):
        """Return the dense model's scores and its blocks' outputs."""
        kept, self.seen = [gate.z.clone() for gate in self.gates], []
        for gate in self.gates:
            gate.z.fill_(1.0)
        scores = functional_call(self.task.model, self.pretrained, (batch["inputs"],))
        for gate, z in zip(self.gates, kept):
            gate.z.copy_(z)
        return scores, self.seen

    def loss(self, model, batch, teacher, outputs):
        hp, self.seen = self.hp, []
        scores, t = model(batch["inputs"]), hp.temperature
        apart = t**2 * distil.divergence(teacher / t, scores / t, "forward", 1.0)
        ours = [h @ self.map.T for h in self.seen]
        nearest = [torch.stack([(h - aim).square().mean() for h in ours]).min() for aim in outputs]
        return hp.weight * apart + (1 - hp.weight) * torch.stack(nearest).sum()

    def expected(self, a):
        each = zip(self.by_gate(_gates.chance(a)), self.by_gate(self.cost))
        return sum((p[:-1] * p[-1] * cost[:-1]).sum() for p, cost in each) / self.cost.sum()

    @torch.no_grad()
    def settle(self, progress):
        chances = [_gates.chance(gate.a) for gate in self.gates]
        both = torch.cat([p[:-1] * p[-1] for p in chances])
        cost = torch.cat([part[:-1] for part in self.by_gate(self.cost)])
        stays = torch.ones_like(both)
        stays[self.smallest(both, cost, progress)] = 0.0
        parts = stays.split([len(gate.a) - 1 for gate in self.gates])
        for gate, part in zip(self.gates, parts):
            gate.z.copy_((0.8 * gate.a / _gates.BETA).sigmoid())
            gate.z[:-1].mul_(part)

    def state_dict(self):
        own = {"map": self.map.detach(), "moments": self.moments, "pretrained": self.pretrained}
        return super().state_dict() | own

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.map = state["map"].clone().requires_grad_()
        self.moments, self.pretrained = state["moments"], state["pretrained"]
