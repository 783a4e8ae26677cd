"""LoRA-Pro: LoRA whose factors move so that their product follows the full gradient.

Wang et al., "LoRA-Pro: Are Low-Rank Adapters Properly Optimized?", arXiv 2407.18242.

    W' = W + s·B·A;  of a direction G of W, with a = s·Bᵀ·G and b = s·G·Aᵀ:
        g_A = (BᵀB)⁻¹·a/s² + X·A;  g_B = (I - B(BᵀB)⁻¹Bᵀ)·b·(AAᵀ)⁻¹/s² - B·X
        BᵀB·X + X·AAᵀ = -(BᵀB)⁻¹·a·Aᵀ/s²
    which makes s·B·g_A + s·g_B·A the nearest to G of what A and B can do
    m, v: Adam's moments of s·B·g_A + s·g_B·A;  its direction is projected again by the same rule

State: m and v of the whole matrix, 2·in·out; AdamW's for the head.
Departures from the paper: small matrices are inverted in float64, with 10⁻⁸ on their diagonals.
"""

from types import SimpleNamespace

import torch

from harness import ops, surgery
from harness.schedules import warmup_cosine
from submissions.first_order import adamw
from submissions.peft import lora

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
    "scale": "standard",
    "start": "zero",
}


def adapt(model, task, hp):
    lora.adapt(model, task, hp)


def projected(m, a, b):
    """Return g_A and g_B from the gradients a of A and b of B (float64)."""
    s, one = m.scale, 1e-8 * torch.eye(len(m.A)).to(a)
    left, right = m.A.double(), m.B.double()
    gram_a, gram_b = left @ left.T + one, right.T @ right + one
    low = torch.linalg.solve(gram_b, a) / s**2
    side = (b - right @ torch.linalg.solve(gram_b, right.T @ b)) / s**2
    side = torch.linalg.solve(gram_a, side.T).T
    # Sylvester's equation in the eigenvectors of its two symmetric matrices.
    (x, u), (y, v) = torch.linalg.eigh(gram_b), torch.linalg.eigh(gram_a)
    middle = u @ (u.T @ (-low @ left.T) @ v / (x[:, None] + y)) @ v.T
    return low + middle @ left, side - right @ middle


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.maps = list(surgery.matrices(task.model).values())
        self.head, weights = surgery.head(task.model), [m.weight for m in self.maps]
        self.head_hp = SimpleNamespace(**vars(hp) | {"lr": hp.head_lr})
        self.state = {"head": adamw.init(self.head, hp), "dense": adamw.init(weights, hp)}

    def step(self):
        task, hp = self.task, self.hp
        loss = task.forward_backward(task.next_batch())
        ops.apply(adamw.update, self.head, self.state["head"], self.head_hp, task.progress)
        with torch.no_grad():
            self.move(hp.lr * warmup_cosine(task.progress, hp.warmup))
        return loss

    def move(self, lr):
        hp, dense = self.hp, self.state["dense"]
        dense["step"] += 1
        grads = []
        for m in self.maps:
            low, side = projected(m, m.A.grad.double(), m.B.grad.double())
            grads.append((m.scale * (m.B.double() @ low + side @ m.A.double())).to(m.A.dtype))
        # What the update leaves at zero is the direction, with a minus.
        steps, betas = ops.zeros(grads), (hp.beta1, hp.beta2)
        ops.adam_(steps, grads, dense["m"], dense["v"], dense["step"], 1.0, betas, hp.eps)
        for m, u in zip(self.maps, steps):
            u = u.double()
            a, b = m.scale * m.B.double().T @ u, m.scale * u @ m.A.double().T
            low, side = projected(m, a, b)
            m.A.mul_(1 - lr * hp.wd).add_((lr * low).to(m.A.dtype))
            m.B.mul_(1 - lr * hp.wd).add_((lr * side).to(m.B.dtype))

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
