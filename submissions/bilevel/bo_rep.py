"""BO-REP: learn a weight for each example by a hypergradient with second derivatives.

Hao et al., "Bilevel Optimization under Unbounded Smoothness: A New Algorithm and Convergence
Analysis", arXiv 2401.09587. The upper variable is a logit x_i for each example; with
g(x, y) = mean σ(x_i)·ℓ_i(y) + (μ/2)·‖y‖² and f the loss of trusted examples:

    z ← z − ξ·(∇²_yy g·z − ∇f(y));  ĝ_i = −σ'(x_i)·⟨∇ℓ_i(y), z⟩/B
    m ← β·m + (1 − β)·ĝ;  x ← x − η·m/‖m‖;  y descends g by SGD

The step of x has a fixed length, since the hypergradient's smoothness may grow with its size; z
approaches the solution of ∇²_yy g·z = ∇f. ⟨∇ℓ_i, z⟩ is one forward-mode pass.
State: z, one word per parameter; logit and momentum for each example.
Departures from the paper: ∇²_yy g·z is a difference of two gradients of the weighted loss; one step
of y for each of x, where the paper refines y by several now and then; z is kept within a norm of
`largest`.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.data.l2rw import agreement, trusted_gradient

PASSES = {"forward_backward": 3, "jvp": 1}
SPACE = {
    "lr": {"log": [0.01, 1.0]},
    "mu": {"log": [1e-5, 1e-2], "default": 1e-4},
    "inverse_lr": {"log": [1e-3, 1.0], "default": 0.1},
    "logit_lr": {"log": [0.01, 10.0], "default": 1.0},
    "momentum": {"choice": [0.9, 0.5]},
    "warmup": 0.05,
}
# Length of the difference along z, relative to the weights; the largest norm of z.
NEAR, LARGEST = 1e-2, 10.0
TINY = 1e-12


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        logits = torch.zeros(task.examples, dtype=task.params[0].dtype)
        self.state = {"z": ops.zeros(task.params), "logits": logits, "m": logits.clone()}

    def weighted(self, batch, weights):
        """Return the loss and the gradient of g at the present weights."""
        task = self.task

        def loss(*_):
            return (weights * task.nats(task.logits(batch), batch)).mean()

        value = task.backward(batch, loss)
        return value, [p.grad + self.hp.mu * p.data for p in task.params]

    def product(self, batch, weights, gradient):
        """Return ∇²_yy g·z, from the gradient here and one at a point along z."""
        params, z = [p.data for p in self.task.params], self.state["z"]
        size, length = norm(params), norm(z)
        if length < TINY:
            # As many passes as are declared, also in the first step.
            self.weighted(batch, weights)
            return ops.zeros(params)
        reach, here = NEAR * max(size, 1.0) / length, ops.copies(params)
        torch._foreach_add_(params, z, alpha=reach)
        ahead = self.weighted(batch, weights)[1]
        torch._foreach_copy_(params, here)
        return torch._foreach_div(torch._foreach_sub(ahead, gradient), reach)

    def step(self):
        task, hp, state, index = self.task, self.hp, self.state, self.task.next_index()
        batch, params = task.gather(index), [p.data for p in task.params]
        weights = torch.sigmoid(state["logits"][index]).to(params[0])
        trusted = trusted_gradient(task)
        loss, gradient = self.weighted(batch, weights)
        residual = torch._foreach_sub(self.product(batch, weights, gradient), trusted)
        torch._foreach_add_(state["z"], residual, alpha=-hp.inverse_lr)
        torch._foreach_mul_(state["z"], min(1.0, LARGEST / max(norm(state["z"]), TINY)))
        slopes = agreement(task, batch, state["z"])[1]
        hyper = torch.zeros_like(state["m"])
        hyper.index_add_(0, index, (-weights * (1 - weights) * slopes / len(index)).to(hyper))
        state["m"].lerp_(hyper, 1 - hp.momentum)
        state["logits"].sub_(state["m"], alpha=hp.logit_lr / max(float(state["m"].norm()), TINY))
        lr = hp.lr * warmup_cosine(task.progress, hp.warmup)
        torch._foreach_add_(params, gradient, alpha=-lr)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def norm(tensors):
    """Return the norm of a list of tensors."""
    return float(torch.stack([t.square().sum() for t in tensors]).sum().sqrt())
