"""SQFT: masked adapters of changing rank on a matrix that Wanda has pruned, and on its grid.

Muñoz et al., "SQFT: Low-cost Model Adaptation in Low-precision Sparse Foundation Models",
arXiv 2410.03750.

    W pruned by Wanda, then rounded to the nearest point δ·{-n, ..., n} of its row's grid;  n =
    2^(b-1) - 1, δ = max |w|/n;  both stay as they are
    W' = W + s·(B·A) ⊙ M, M the mask, s = α/r, A ~ U(±1/√in), B = 0  (SparsePEFT)
    W' rounded to the same grid, with gradients straight through the rounding  (QA-SparsePEFT)
    each step every matrix uses its first r, 3r/4 or r/2 ranks, drawn at random (NLS); handed over
    are the first 3r/4

State: AdamW's for A and B, r(in + out) scalars a matrix; a mask.
Departures from the paper: rounding to nearest in place of GPTQ; a grid of a row, with a zero, in
place of groups with an offset. The ranks that are handed over are the authors' heuristic; their
search for better ones is left out. Without a bound on bits nothing is rounded.
"""

import torch

from harness import ops, surgery
from submissions.first_order import adamw
from submissions.sparse import perp, wanda

TRACKS = ["compress"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [1e-3, 3e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "sparsity": {"linear": [0.0, 0.99], "default": 0.5, "goal": "sparsity"},
    "two_four": {"choice": [False, True], "goal": "two_four"},
    "bits": {"int": [2, 32], "default": 32, "goal": "bits"},  # 32: no rounding
    "rank": {"int": [4, 16], "default": 8},
    "alpha": 16.0,
    "examples": 32,
}


class Elastic(perp.MaskLoRA):
    def __init__(self, linear, rank, scale, mask, bits):
        super().__init__(linear, rank, scale, mask)
        self.active, self.top = rank, 2 ** (bits - 1) - 1 if bits < 32 else None
        if self.top:
            step = self.weight.detach().abs().amax(1, keepdim=True) / self.top
            self.register_buffer("grid", step.clamp(min=torch.finfo(step.dtype).tiny))
            self.weight.data.copy_(self.rounded(self.weight.detach()))

    def rounded(self, values):
        return self.grid * (values / self.grid).round().clamp(-self.top, self.top)

    def dense(self):
        product = self.B[:, : self.active] @ self.A[: self.active]
        merged = self.weight + self.scale * product * self.mask
        return ops.straight_through(merged, self.rounded(merged)) if self.top else merged


def adapt(model, task, hp):
    wanda.adapt(model, task, hp)
    model.requires_grad_(False)
    scale = hp.alpha / hp.rank
    surgery.replace(model, lambda m: Elastic(m, hp.rank, scale, task.masks.of(m.weight), hp.bits))


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.maps = list(surgery.matrices(task.model).values())
        self.ranks = [hp.rank, 3 * hp.rank // 4, hp.rank // 2]
        self.state = adamw.init(task.params, hp)
        self.settle()

    def settle(self):
        """Use the ranks that are handed over."""
        for m in self.maps:
            m.active = self.ranks[1]

    def step(self):
        task = self.task
        drawn = torch.randint(len(self.ranks), (len(self.maps),), generator=task.rng).tolist()
        for m, i in zip(self.maps, drawn):
            m.active = self.ranks[i]
        loss = task.forward_backward(task.next_batch())
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        self.settle()
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
