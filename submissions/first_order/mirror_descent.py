"""Mirror descent with the hypentropy map: between gradient descent and multiplicative updates.

Nemirovsky and Yudin, 1983; the map: Ghai, Hazan and Singer, arXiv 1902.01903, Section 3.

    φ(p) = Σ p·asinh(p/β) − √(p² + β²),  ∇φ(p) = asinh(p/β)
    p ← β·sinh(asinh(p/β) − lr·g)

As β grows it is gradient descent with rate lr·β; as β falls, large parameters are multiplied by
exp(±lr·g) and small ones stay small, which suits sparse solutions.

State: none.
Departures from the paper: the constant step is scheduled like everybody's.
"""

import torch

from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [0.1, 10.0]},
    "beta": {"log": [1e-3, 1.0]},
    "warmup": 0.05,
}


def init(params, hp):
    return {}


def update(params, grads, state, hp, progress):
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    for p, g in zip(params, grads):
        dual = torch.asinh(p / hp.beta).sub_(g, alpha=lr)
        p.copy_(dual.sinh_().mul_(hp.beta))
