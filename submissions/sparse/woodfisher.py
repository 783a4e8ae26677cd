"""WoodFisher: prune what costs the least by the Fisher matrix, and move the rest to match.

Singh, Alistarh, "WoodFisher: Efficient Second-Order Approximation for Neural Network Compression",
arXiv 2004.14340; block 1: Optimal Brain Damage, LeCun et al., 1989; large blocks: Optimal Brain
Surgeon, Hassibi and Stork, 1992.

    F = λI + (1/N)·Σ g·gᵀ in blocks of B weights of a row, over the steps since the last pruning
    cost of a weight: w_q²/(2·[F⁻¹]_qq);  δw = -Σ_q w_q/[F⁻¹]_qq·F⁻¹·e_q, q the pruned of a block
    `rounds` times, up to `end` of the horizon: prune the cheapest of all matrices, the share as a
    cubic up to the goal's

State: a mask; the blocks' sums of g·gᵀ, B words per weight; AdamW's two words per parameter.
Departures from the paper: g is the gradient of a training step, so no passes are added; it is of a
batch, so F is too small by the batch size. The δw of weights pruned together are added up.
"""

import torch

from harness import ops, surgery
from submissions.first_order import adamw
from submissions.sparse import magnitude

TRACKS = ["compress"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [3e-4, 1e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "sparsity": {"linear": [0.0, 0.99], "default": 0.8, "goal": "sparsity"},
    # B, at most.
    "block": {"int": [1, 64], "default": 16},
    # λ
    "damp": {"log": [1e-8, 1e-3], "default": 1e-6},
    "rounds": {"int": [1, 10], "default": 5},
    "end": {"linear": [0.2, 0.9], "default": 0.5},
}
VARIANTS = {"obd": {"block": 1}, "obs": {"block": 64}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.weights = surgery.weights(task.model)
        self.blocks = [
            max(b for b in range(1, hp.block + 1) if w.shape[1] % b == 0) for w in self.weights
        ]
        self.state = {"adam": adamw.init(task.params, hp), "sums": [], "count": 0}

    def step(self):
        task, hp = self.task, self.hp
        length = max(1, int(hp.end * task.horizon / hp.rounds))
        loss = task.forward_backward(task.next_batch())
        if task.step < hp.rounds * length:
            with torch.no_grad():
                self.collect()
        ops.apply(adamw.update, task.params, self.state["adam"], hp, task.progress)
        number, rest = divmod(task.step + 1, length)
        if not rest and number <= hp.rounds:
            with torch.no_grad():
                self.prune(hp.sparsity * (1 - (1 - number / hp.rounds) ** 3))
        return loss

    def collect(self):
        found = [w.grad.reshape(-1, b) for w, b in zip(self.weights, self.blocks)]
        outer = [g[:, :, None] * g[:, None] for g in found]
        self.state["sums"] = [s + o for s, o in zip(self.state["sums"], outer)] or outer
        self.state["count"] += 1

    def prune(self, share):
        inverses, scores = [], []
        for w, total in zip(self.weights, self.state["sums"]):
            fisher = total / self.state["count"]
            inverse = torch.linalg.inv(fisher + self.hp.damp * torch.eye(len(total[0])).to(total))
            cost = w.square() / (2 * inverse.diagonal(dim1=1, dim2=2).reshape(w.shape))
            inverses.append(inverse)
            scores.append(cost.masked_fill(~self.task.masks.of(w), -1.0))
        for w, mask, inverse in zip(self.weights, magnitude.kept(scores, share), inverses):
            values = (w * ~mask).reshape(-1, inverse.shape[1])
            pull = values / inverse.diagonal(dim1=1, dim2=2)
            w.sub_(torch.einsum("nij,nj->ni", inverse, pull).reshape(w.shape))
            self.task.masks.set(w, mask)
        self.state["sums"], self.state["count"] = [], 0

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
