"""CoDyRA: LoRA whose ranks have weights, which a soft threshold brings to zero one by one.

Lu et al., "Adaptive Rank, Reduced Forgetting: Knowledge Retention in Continual Learning
Vision-Language Models with Dynamic Rank-Selective LoRA", arXiv 2412.01004.

    W' = W + s·B·diag(w)·A,  w ~ N(0, 1), B = 0 at the start;  s = α/r
    after `dense` of the horizon each step of AdamW on A, B and w ends with
        w ← sign(w)·max(|w| - κ_t, 0),  κ_t = lr_t·κ·(t - `dense`)/(1 - `dense`)
    a rank with w = 0 does not come back

State: AdamW's for A, B and w, r(in + out + 1) scalars a matrix.
Departures from the paper: its `dense`, its κ, how κ grows and the first w could not be read. Here κ
grows linearly, the threshold is that of a proximal step on κ·‖w‖₁, and w is drawn as in SoRA (arXiv
2311.11696), which has the same threshold. With w = 1 no rank went: all weights shrank alike. The
rule is for one task; in a stream each change is merged before the next task begins.
"""

import torch
import torch.nn.functional as F
from torch import nn

from harness import surgery
from harness.schedules import warmup_cosine
from submissions.first_order import adamw
from submissions.peft import head_only, lora

TRACKS = ["finetune"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [1e-3, 5e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "head_lr": 5e-3,
    "rank": {"int": [2, 16], "default": 8},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
    "dense": {"linear": [0.2, 0.7], "default": 0.5},
    "kappa": {"log": [1.0, 10.0], "default": 4.0},
}


class Weighted(lora.LoRA):
    def __init__(self, linear, rank, scale):
        super().__init__(linear, rank, scale)
        self.w = nn.Parameter(torch.randn_like(self.A[:, 0]))

    def dense(self):
        return self.weight + self.scale * (self.B * self.w) @ self.A

    def forward(self, x):
        low = F.linear(F.linear(x, self.A) * self.w, self.B)
        return F.linear(x, self.weight, self.bias) + self.scale * low


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lambda out, n, r: r * (out + n + 1))
    surgery.replace(model, lambda linear: Weighted(linear, rank, hp.alpha / rank))


def soft_threshold(w, kappa):
    """Return the proximal point of κ·‖w‖₁."""
    return w.sign() * (w.abs() - kappa).clamp(min=0)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.weights = [m.w for m in surgery.matrices(task.model).values()]
        self.trainer = head_only.Trainer(task, hp)

    def step(self):
        task, hp = self.task, self.hp
        loss = task.forward_backward(task.next_batch())
        left = [w.detach() != 0 for w in self.weights]
        self.trainer.update()
        if task.progress > hp.dense:
            grown = (task.progress - hp.dense) / (1 - hp.dense)
            kappa = hp.lr * warmup_cosine(task.progress, hp.warmup) * hp.kappa * grown
            with torch.no_grad():
                for w, stays in zip(self.weights, left):
                    w.copy_(soft_threshold(w, kappa) * stays)
        return loss

    def state_dict(self):
        return self.trainer.state

    def load_state_dict(self, state):
        self.trainer.state = state
