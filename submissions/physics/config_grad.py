"""ConFIG: a direction with the same cosine to the gradient of every loss term, then Adam.

Liu, Chu, Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks",
arXiv 2408.11104; PCGrad: Yu et al., arXiv 2001.06782.

    config: d = the least-norm solution of ĝ_iᵀd = 1, ĝ_i the unit gradients;
        g = (Σ_i g_iᵀd̂)·d̂, d̂ = d/‖d‖
    pcgrad: from each g_i, in a random order of the others, take away its part along every g_j that
        it conflicts with (g_iᵀg_j < 0);  g = Σ_i g_i
    AdamW's step on g

State: AdamW's m and v, two words per parameter; the step.
Departures from the paper: AdamW with warm-up and cosine decay; new points in every step.
"""

import torch

from harness import ops
from submissions.first_order import adamw
from submissions.samplers import uniform

PASSES = {"forward_backward": 4}  # a pass for each term; no workload here has more
SPACE = {**uniform.SPACE, "rule": {"choice": ["config", "pcgrad"], "tuned": False}}
VARIANTS = {"pcgrad": {"rule": "pcgrad"}}


def config(rows):
    """Return the conflict-free direction of gradients [K, n]; gradients of zero take no part."""
    rows = rows[rows.norm(dim=1) > 0]
    if not len(rows):
        return rows.sum(0)
    unit = rows / rows.norm(dim=1, keepdim=True)
    d = torch.linalg.pinv(unit) @ torch.ones(len(rows)).to(rows)
    d = d / d.norm()
    return (rows @ d).sum() * d


def pcgrad(rows, rng):
    """Return the sum of gradients [K, n], each without its conflicts with the others."""
    total = torch.zeros_like(rows[0])
    lengths = rows.norm(dim=1)
    unit = rows / torch.where(lengths > 0, lengths, 1.0)[:, None]
    for i, g in enumerate(rows):
        for j in torch.randperm(len(rows), generator=rng).tolist():
            along = g @ unit[j]
            if j != i and along < 0:
                g = g - along * unit[j]
        total = total + g
    return total


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.state = task, hp, adamw.init(task.params, hp)

    def step(self):
        task, hp = self.task, self.hp
        found = task.term_gradients(task.batch_at(uniform.draw(task, task.batch_size)))
        rows = torch.stack([torch.cat([g.flatten() for g in grads]) for grads in found.values()])
        g = config(rows) if hp.rule == "config" else pcgrad(rows, task.rng)
        for p, part in zip(task.params, g.split([p.numel() for p in task.params]), strict=True):
            p.grad = part.view_as(p).clone()
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return sum(v.square().mean() for v in task.last_terms.values())

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
