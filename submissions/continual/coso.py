"""CoSO: Adam in the leading subspace of the gradient, kept orthogonal to earlier tasks' subspaces.

Cheng et al., "Continuous Subspace Optimization for Continual Learning", arXiv 2505.11816.

    for each hidden matrix, G' = G − M·Mᵀ·G
    every `every` steps: U, S of the SVD of G';  P = the first `rank` columns of U;  the sketch of
        `sketch` columns takes in U·S: SVD, σ ← √max(σ² − σ²_next, 0) (frequent directions)
    W ← W − lr·P·Adam(Pᵀ·G')
    at a task's end M gains the sketch's directions whose cumulative energy is below `energy`
    other parameters: Adam

State: Adam's two moments of `rank` rows a matrix and of the other parameters; P, M and the sketch.
Departures from the paper: it trains all hidden matrices, where the authors train the attention's
output projections of a pretrained transformer; the other parameters are not projected; new
directions are made orthonormal by QR.
"""

import torch

from harness import ops, surgery

TRACKS = ["continual"]
SPACE = {
    "lr": {"log": [1e-4, 3e-2], "default": 3e-3},
    "rank": {"choice": [15, 50, 5]},
    "sketch": 100,
    "every": {"choice": [10, 1, 20]},
    "energy": {"choice": [0.98, 0.95, 0.9]},
    "beta1": 0.9,
    "beta2": 0.999,
}


def sketched(sketch, fresh, size):
    """Return the sketch [n, size] with fresh columns taken in, by frequent directions."""
    u, s, _ = torch.linalg.svd(torch.cat([sketch, fresh], dim=1), full_matrices=False)
    shrunk = s.square() - (s[size].square() if len(s) > size else 0)
    return (u * shrunk.clamp(min=0).sqrt())[:, :size]


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        inner = {id(p) for p in surgery.weights(task.model)}
        self.hidden = [p for p in task.params if id(p) in inner]
        self.others = [p for p in task.params if id(p) not in inner]
        empty = [p.data[:, :0].flatten(1) for p in self.hidden]
        self.state = {"memory": empty, "sketch": empty, "basis": empty, "m": [], "v": [], "step": 0}
        self.rest = {"m": ops.zeros(self.others), "v": ops.zeros(self.others)}

    def step(self):
        task, hp, state = self.task, self.hp, self.state
        if task.boundary and task.step:
            self.remember()
        loss = task.forward_backward(task.next_batch())
        grads = []
        for p, memory in zip(self.hidden, state["memory"], strict=True):
            g = p.grad.flatten(1)
            grads.append(g - memory @ (memory.T @ g))
        if state["step"] % hp.every == 0:
            self.turn(grads)
        small = [b.T @ g for b, g in zip(state["basis"], grads, strict=True)]
        if not state["m"]:
            state |= {"m": ops.zeros(small), "v": ops.zeros(small)}
        state["step"] += 1
        steps, betas = ops.zeros(small), (hp.beta1, hp.beta2)
        ops.adam_(steps, small, state["m"], state["v"], state["step"], hp.lr, betas, 1e-8)
        for p, b, u in zip(self.hidden, state["basis"], steps, strict=True):
            p.data.add_((b @ u).view_as(p))
        values, slopes = [p.data for p in self.others], [p.grad for p in self.others]
        moments = (self.rest["m"], self.rest["v"], state["step"])
        ops.adam_(values, slopes, *moments, hp.lr, betas, 1e-8)
        return loss

    def turn(self, grads):
        """Take the subspaces anew, and the gradients into the sketches."""
        hp, state = self.hp, self.state
        parts = [torch.linalg.svd(g, full_matrices=False) for g in grads]
        state["basis"] = [u[:, : hp.rank].contiguous() for u, _, _ in parts]
        state["sketch"] = [
            sketched(old, (u * s)[:, : hp.sketch], hp.sketch)
            for old, (u, s, _) in zip(state["sketch"], parts, strict=True)
        ]

    def remember(self):
        """Put the sketches' leading directions into the memories, and start anew."""
        state, grown = self.state, []
        for memory, sketch in zip(state["memory"], state["sketch"], strict=True):
            u, s, _ = torch.linalg.svd(sketch, full_matrices=False)
            share = s.square().cumsum(0) / s.square().sum().clamp(min=1e-300)
            count = int((share < self.hp.energy).sum())
            grown.append(torch.linalg.qr(torch.cat([memory, u[:, :count]], dim=1)).Q)
        state |= {"memory": grown, "sketch": [m[:, :0] for m in grown], "m": [], "v": [], "step": 0}
        self.rest = {"m": ops.zeros(self.others), "v": ops.zeros(self.others)}

    def state_dict(self):
        return {"state": self.state, "rest": self.rest}

    def load_state_dict(self, saved):
        self.state, self.rest = saved["state"], saved["rest"]
