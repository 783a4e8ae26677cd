"""GPM: gradients are projected off the directions in which earlier tasks' inputs lie.

Saha, Garg, Roy, "Gradient Projection Memory for Continual Learning", arXiv 2103.09762.

    at a task's end, for each layer with inputs X [width, n] of stored examples: R = X − M·Mᵀ·X,
    M gains the leading left singular vectors of R until ‖M·Mᵀ·X‖² ≥ (threshold + growth·task)·‖X‖²
    g ← g − g·M·Mᵀ;  p ← p − lr·g

so that W·x is unchanged for every x in the span of M.

State: M of each layer; a reservoir of the present task, `task.memory` bytes.
Departures from the paper: one batch of a reservoir stands for the task; biases and norms train in
the first task alone (the authors have none); no halving of the rate on plateaus.
"""

import torch

from harness import ops
from harness.errors import UserError
from harness.memory import Buffer

TRACKS = ["continual"]
PASSES = {"forward_backward": 1, "forward": 0.04}
SPACE = {
    "lr": {"log": [1e-3, 0.3], "default": 0.03},
    "threshold": {"choice": [0.97, 0.95, 0.99]},
    "growth": 0.003,
}


def extend(basis, x, threshold):
    """Return orthonormal columns that hold `threshold` of the energy of x [width, n]."""
    total, rest = x.square().sum(), x - basis @ (basis.T @ x)
    u, s, _ = torch.linalg.svd(rest, full_matrices=False)
    held = (total - rest.square().sum()) + s.square().cumsum(0)
    before = torch.cat([(total - rest.square().sum())[None], held[:-1]])
    new = u[:, before < threshold * total]
    return torch.linalg.qr(torch.cat([basis, new], dim=1)).Q


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.number = task, hp, 0
        self.bases, self.memory = {}, Buffer(task.memory)

    def step(self):
        task = self.task
        if task.boundary and task.step:
            self.remember()
        batch = task.next_batch()
        loss = task.forward_backward(batch)
        for name, p in task.model.named_parameters():
            layer = name.rpartition(".")[0]
            if p.ndim > 1 and layer in self.bases:
                p.grad.sub_(p.grad @ self.bases[layer] @ self.bases[layer].T)
            elif self.number:
                p.grad.zero_()
        ops.sgd_([p.data for p in task.params], [p.grad for p in task.params], self.hp.lr)
        self.memory.add(batch, task.rng)
        return loss

    def remember(self):
        """Extend every layer's basis by the inputs of stored examples."""
        task = self.task
        _, maps = task.linear_maps(self.memory.sample(task.batch_size, task.rng))
        names = {module: name for name, module in task.model.named_modules()}
        if {p.ndim for p in task.params} - {1, 2}:
            raise UserError("gpm projects the inputs of linear layers", "a model of kind mlp")
        for layer, x, _ in maps:
            x = x.flatten(0, -2).T
            held = self.bases.get(names[layer], x[:, :0])
            limit = min(1.0, self.hp.threshold + self.hp.growth * self.number)
            self.bases[names[layer]] = extend(held, x, limit)
        self.number, self.memory = self.number + 1, Buffer(task.memory)

    def state_dict(self):
        kept = {"bases": self.bases, "number": self.number}
        return kept | {"memory": self.memory.state_dict()}

    def load_state_dict(self, saved):
        self.bases, self.number = saved["bases"], saved["number"]
        self.memory.load_state_dict(saved["memory"])
