"""RoSA: LoRA with single entries beside it, where the squared gradients of a warm-up are largest.

Nikdan et al., "RoSA: Accurate Parameter-Efficient Fine-Tuning via Robust Adaptation",
arXiv 2401.04679.

    for `warm` of the horizon W' = W + s·B·A, as LoRA;  s = α/r
    over the next `batches` steps Σ(∇W)²; S has its `density`·in·out largest places of each matrix
    then W' = W + s·B·A + S from the start again: A ~ U(±1/√in), B = 0, S = 0

State: AdamW's for A, B and the entries of S; one dense sum of squares for `batches` steps.
Departures from the paper: one learning rate for A, B and S, whose cosine does not start again; the
head keeps what it has learnt in the warm-up. Every hidden matrix has both parts. The masks follow
the authors' recipe: one batch of squared gradients. Its warm-up is 64 steps; here it is a share.
"""

import torch

from harness import surgery
from submissions.first_order import adamw
from submissions.peft import dsee, head_only, lora, sft

TRACKS = ["finetune"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [1e-3, 5e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "head_lr": 5e-3,
    "rank": {"int": [1, 16], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
    "density": {"log": [1e-3, 3e-2], "default": 6e-3},
    "warm": {"linear": [0.05, 0.3], "default": 0.1},
    "batches": 1,
}


def adapt(model, task, hp):
    surgery.freeze(model)

    def count(out, inputs):
        return max(1, int(hp.density * out * inputs))

    def size(out, inputs, rank):
        return lora.size(out, inputs, rank) + count(out, inputs)

    rank = surgery.fitting(model, hp.rank, hp.share, size)

    def both(linear):
        places = torch.arange(count(*linear.weight.shape), device=linear.weight.device)
        return dsee.LowRankSparse(linear, rank, hp.alpha / rank, places, 1.0)

    for m in surgery.replace(model, both):
        m.phi.requires_grad_(False)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.squares = task, []
        self.maps = list(surgery.matrices(task.model).values())
        self.first = int(hp.warm * task.horizon)
        self.last = self.first + hp.batches - 1
        self.trainer = head_only.Trainer(task, hp)

    def step(self):
        task = self.task
        loss, grads = sft.passed(task, self.maps, self.first <= task.step <= self.last)
        if grads:
            squares = [g.square() for g in grads]
            self.squares = [a + b for a, b in zip(self.squares, squares)] or squares
        self.trainer.update()
        if task.step == self.last:
            self.restart()
        return loss

    @torch.no_grad()
    def restart(self):
        for m, squares in zip(self.maps, self.squares):
            m.places.copy_(squares.topk(len(m.phi)).indices.sort().values)
            bound = m.A.shape[1] ** -0.5
            drawn = torch.rand(m.A.shape, generator=self.task.rng)
            m.A.copy_(bound * (2 * drawn - 1))
            m.B.zero_()
            m.weight.grad = None
        self.squares = []
        self.begin()

    def begin(self):
        """Let the entries train, and restart AdamW."""
        for m in self.maps:
            m.phi.requires_grad_(True)
        self.trainer.reset()

    def state_dict(self):
        return {"trainer": self.trainer.state, "squares": self.squares}

    def load_state_dict(self, state):
        if self.task.step > self.last:
            self.begin()
        self.trainer.state, self.squares = state["trainer"], state["squares"]
