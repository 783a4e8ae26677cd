"""IncreLoRA: adapters P·Λ·Q that grow, one rank everywhere at first, where they matter most.

Zhang et al., "IncreLoRA: Incremental Parameter Allocation Method for Parameter-Efficient
Fine-tuning", arXiv 2308.12043.

    W' = W + (α/ρ)·P·Λ·Q, ρ the ranks granted to the matrix so far, 1 at the start; Λ = 0 at first
    S = Σ|ΔW ⊙ ∇W|/√(in·out);  Ī ← β·Ī + (1 - β)S;  Ū ← β·Ū + (1 - β)|S - Ī|;  score s = Ī·Ū
    after `settle` of the horizon, every `period` of it: the `top` matrices with the largest s get
    k more ranks, k = half the mean rank at the end, until the mean rank is `rank`
    the next k triplets of a matrix train ahead of time, with Λ = 10⁻⁵; without a grant it ends at 0
    loss + γ·mean ‖AAᵀ - I‖_F over all P, Q

State: AdamW's for P, Λ, Q with room for 2·rank triplets a matrix; two numbers a matrix.
Departures from the paper: a matrix has at most 2·rank triplets, because room for them is made at
the start and counts as trained; the last grant is cut where it would exceed the total. A grant
shrinks what the matrix has learnt by the growth of ρ, as in the authors' code.
"""

import torch

from harness import surgery
from submissions.first_order import adamw
from submissions.peft import adalora, head_only

TRACKS = ["finetune"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [1e-3, 5e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "head_lr": 5e-3,
    # The mean rank at the end.
    "rank": {"int": [1, 8], "default": 2},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
    "gamma": 0.1,
    # β
    "smooth": 0.85,
    "settle": 0.1,
    "period": {"linear": [0.01, 0.1], "default": 0.03},
    "top": {"int": [1, 8], "default": 4},
}
AHEAD = 1e-5


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lambda out, n, r: 2 * r * (out + n + 1))
    surgery.replace(model, lambda linear: adalora.AdaLoRA(linear, 2 * rank, hp.alpha))


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.maps = list(surgery.matrices(task.model).values())
        self.room = len(self.maps[0].lam)
        self.more = max(1, self.room // 4)
        self.granted = [1] * len(self.maps)
        self.mean, self.spread = [0.0] * len(self.maps), [0.0] * len(self.maps)
        self.trainer = head_only.Trainer(task, hp)
        self.arrange()

    @torch.no_grad()
    def arrange(self):
        """Set the divisor and the Λ of the triplets that train ahead of time."""
        for m, granted in zip(self.maps, self.granted):
            m.scale = self.hp.alpha / granted
            m.lam[granted : granted + self.more] = AHEAD

    def step(self):
        task, hp = self.task, self.hp
        for m in self.maps:
            m.weight.requires_grad_(True)
        loss = task.forward_backward(task.next_batch())
        with torch.no_grad():
            scores = [self.score(m) for m in self.maps]
        with torch.enable_grad():
            self.penalty().backward()
        for m, granted in zip(self.maps, self.granted):
            m.weight.requires_grad_(False)
            m.weight.grad = None
            m.lam.grad[granted:] = 0.0
        for i, s in enumerate(scores):
            self.mean[i] += (1 - hp.smooth) * (s - self.mean[i])
            self.spread[i] += (1 - hp.smooth) * (abs(s - self.mean[i]) - self.spread[i])
        self.trainer.update()
        first, length = int(hp.settle * task.horizon), max(1, int(hp.period * task.horizon))
        if task.step >= first and (task.step - first) % length == length - 1:
            self.grow()
        if task.step == task.horizon - 1:
            for m, granted in zip(self.maps, self.granted):
                m.lam.data[granted:] = 0.0
        return loss

    def score(self, m):
        change = m.scale * m.P @ (m.lam * m.Q)
        return float((change * m.weight.grad).abs().sum()) / m.weight.numel() ** 0.5

    def penalty(self):
        live = [(m, granted + self.more) for m, granted in zip(self.maps, self.granted)]
        both = [a for m, count in live for a in (m.P.T[:count], m.Q[:count])]
        norms = [(a @ a.T - torch.eye(len(a)).to(a)).norm() for a in both]
        return self.hp.gamma * torch.stack(norms).mean()

    def grow(self):
        left = len(self.maps) * self.room // 2 - sum(self.granted)
        order = sorted(range(len(self.maps)), key=lambda i: -self.mean[i] * self.spread[i])
        for i in [i for i in order if self.granted[i] < self.room][: self.hp.top]:
            count = min(self.more, left, self.room - self.granted[i])
            self.granted[i], left = self.granted[i] + count, left - count
        self.arrange()

    def state_dict(self):
        own = {"granted": self.granted, "mean": self.mean, "spread": self.spread}
        return {"trainer": self.trainer.state, **own}

    def load_state_dict(self, state):
        self.trainer.state, self.granted = state["trainer"], state["granted"]
        self.mean, self.spread = state["mean"], state["spread"]
        for m, granted in zip(self.maps, self.granted):
            m.scale = self.hp.alpha / granted
