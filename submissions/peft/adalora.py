"""AdaLoRA: adapters P·Λ·Q whose least important triplets are masked during training.

Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning",
arXiv 2303.10512.

    W' = W + (α/r)·P·Λ·Q,  Λ = 0, P and Q ~ N(0, 0.02²);  loss + γ·mean ‖AAᵀ - I‖_F over all P, Q
    I = |w·∇w|;  Ī ← β1·Ī + (1 - β1)I;  Ū ← β2·Ū + (1 - β2)|I - Ī|;  s = Ī·Ū
    triplet k: S_k = s(Λ_k) + mean s(P_·k) + mean s(Q_k·)
    Λ_k ← 0 unless S_k is among the b(t) largest of all
    b = b0 for the first `settle` of the steps, then falls as a cubic to `keep`·b0; for the last
    `settle` of the steps scores and masks are constant

State: AdamW's and Ī, Ū for P, Λ, Q: four words each; r(in + out + 1) scalars a matrix.
Departures from the paper: the penalty is a mean of norms, not a sum of squared norms; masks are set
at every step (ΔT = 1); α is always divided by the first rank; a score multiplies the gradient by
the value after the step. All but the masks are as in the authors' code.
"""

import torch
from torch import nn

from harness import ops, surgery
from submissions.first_order import adamw
from submissions.peft import head_only

TRACKS = ["finetune"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [1e-3, 3e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "head_lr": 5e-3,
    "rank": {"int": [2, 12], "default": 6},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 32.0,
    "gamma": 0.1,
    # Share of the triplets that stay at the end.
    "keep": 0.66,
    # β1 and β2 of the importance.
    "smooth": 0.85,
    "settle": 0.2,
}


class AdaLoRA(surgery.Adapted):
    def __init__(self, linear, rank, alpha):
        super().__init__(linear)
        out, inputs = self.weight.shape
        self.scale = alpha / rank
        self.P = nn.Parameter(self.weight.new_empty(out, rank).normal_(std=0.02))
        self.lam = nn.Parameter(self.weight.new_zeros(rank, 1))
        self.Q = nn.Parameter(self.weight.new_empty(rank, inputs).normal_(std=0.02))

    def dense(self):
        return self.weight + self.scale * self.P @ (self.lam * self.Q)


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lambda out, n, r: r * (out + n + 1))
    surgery.replace(model, lambda linear: AdaLoRA(linear, rank, hp.alpha))


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.triplets = list(surgery.matrices(task.model).values())
        self.trainer = head_only.Trainer(task, hp)
        self.factors = [p for m in self.triplets for p in (m.P, m.lam, m.Q)]
        self.mean, self.spread = ops.zeros(self.factors), ops.zeros(self.factors)

    def time(self):
        """Return the share done of the phase in which the budget falls."""
        settle = self.hp.settle
        return (self.task.step / self.task.horizon - settle) / (1 - 2 * settle)

    def budget(self):
        """Return how many triplets stay at this step."""
        hp, total, t = self.hp, sum(len(m.lam) for m in self.triplets), self.time()
        left = (1 - min(max(t, 0.0), 1.0)) ** 3
        return int(total * (hp.keep + (1 - hp.keep) * left))

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        with torch.enable_grad():
            both = [m.P.T for m in self.triplets] + [m.Q for m in self.triplets]
            norms = [(a @ a.T - torch.eye(len(a), device=a.device)).norm() for a in both]
            (self.hp.gamma * torch.stack(norms).mean()).backward()
        self.trainer.update()
        with torch.no_grad():
            if self.time() < 1:
                self.score()
            self.mask()
        return loss

    def score(self):
        smooth = self.hp.smooth
        for p, mean, spread in zip(self.factors, self.mean, self.spread):
            importance = (p * p.grad).abs()
            mean.lerp_(importance, 1 - smooth)
            spread.lerp_((importance - mean).abs(), 1 - smooth)

    def mask(self):
        s = [mean * spread for mean, spread in zip(self.mean, self.spread)]
        scores = [p.mean(0) + lam[:, 0] + q.mean(1) for p, lam, q in zip(s[::3], s[1::3], s[2::3])]
        flat, keep = torch.cat(scores), self.budget()
        if keep < len(flat):
            stays = torch.zeros_like(flat).scatter_(0, flat.topk(keep).indices, 1.0)
            for m, part in zip(self.triplets, stays.split(len(self.triplets[0].lam))):
                m.lam.mul_(part[:, None])

    def state_dict(self):
        return {"trainer": self.trainer.state, "mean": self.mean, "spread": self.spread}

    def load_state_dict(self, state):
        self.trainer.state, self.mean, self.spread = (
            state["trainer"],
            state["mean"],
            state["spread"],
        )
