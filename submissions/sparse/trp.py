"""TRP: train, and cut every matrix to a low rank again and again.

Xu et al., "Trained Rank Pruning for Efficient Deep Neural Networks", arXiv 1910.04576; "TRP:
Trained Rank Pruning for Efficient Deep Neural Networks", arXiv 2004.14566.

    every `period` steps:  W = UΣVᵀ;  W ← UᵣΣᵣVᵣᵀ with the least r whose lost energy
    Σ_{j>r} σⱼ²/Σσ² is at most e;  the gradient of that step gets λ·UᵣVᵣᵀ, of the nuclear norm
    a matrix of rank r costs min(out·in, r(out + in));  e is the least that meets the goal's size

What is handed over is cut; training goes on from the uncut weights until the next period.

State: AdamW's two words per parameter.
Departures from the paper: e follows from the goal, the same for all matrices; hidden linear maps
instead of convolutions; AdamW.
"""

import torch

from harness import ops, surgery
from submissions.first_order import adamw

TRACKS = ["compress"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [3e-4, 1e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "size": {"linear": [0.3, 1.0], "default": 0.75, "goal": "size"},
    "period": {"int": [1, 20], "default": 10},
    "nuclear": {"log": [1e-5, 1e-3], "default": 3e-4},
}


def ranks(spectra, shapes, energy):
    """Return for each spectrum the least rank that loses at most this share of its energy."""
    result = []
    for s, (out, inputs) in zip(spectra, shapes):
        lost = 1 - s.square().cumsum(0) / s.square().sum().clamp(min=1e-30)
        rank = int((lost > energy).sum()) + 1
        result.append(rank if rank * (out + inputs) < out * inputs else min(out, inputs))
    return result


def chosen(spectra, shapes, budget):
    """Return the ranks of the least energy at which the matrices cost at most `budget`."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        cost = sum(
            min(out * inputs, rank * (out + inputs))
            for rank, (out, inputs) in zip(ranks(spectra, shapes, middle), shapes)
        )
        low, high = (low, middle) if cost <= budget else (middle, high)
    return ranks(spectra, shapes, high)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.weights = surgery.weights(task.model)
        self.state = adamw.init(task.params, hp)
        whole = sum(p.numel() for p in task.model.parameters())
        self.budget = sum(w.numel() for w in self.weights) - (1 - hp.size) * whole

    @torch.no_grad()
    def cut(self):
        """Return each matrix at its rank, and the sub-gradient of its nuclear norm."""
        parts = [torch.linalg.svd(w.double(), full_matrices=False) for w in self.weights]
        kept = chosen([s for _, s, _ in parts], [w.shape for w in self.weights], self.budget)
        low = [((u[:, :r] * s[:r]) @ v[:r]) for (u, s, v), r in zip(parts, kept)]
        slopes = [u[:, :r] @ v[:r] for (u, _, v), r in zip(parts, kept)]
        return [[t.to(w) for t, w in zip(ts, self.weights)] for ts in (low, slopes)]

    def step(self):
        task, hp = self.task, self.hp
        cutting = task.step % hp.period == 0
        if cutting:
            low, slopes = self.cut()
            for w, value in zip(self.weights, low):
                w.data.copy_(value)
        loss = task.forward_backward(task.next_batch())
        if cutting:
            for w, slope in zip(self.weights, slopes):
                if w.grad is not None:
                    w.grad.add_(slope, alpha=hp.nuclear)
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return loss

    def evaluate_view(self):
        low = dict(zip(map(id, self.weights), self.cut()[0]))
        return [low.get(id(p), p.detach()) for p in self.task.params]

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
