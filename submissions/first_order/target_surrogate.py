"""Target-space surrogate (SSO): one gradient with respect to the logits serves several steps.

Lavington et al., "Target-based Surrogates for Stochastic Optimization", arXiv 2302.02607.

    z₀ = logits at p;  d_i = ∂loss_i/∂z_i at z₀, fixed for the step
    S(p) = mean over examples of <d_i, z_i> + ‖z_i − z₀_i‖²/(2η)
    four times  p' = p − τ·∇S;  S(p') ≤ S(p) − τ·‖∇S‖²/2: p ← p', τ ← 1.8·τ;  else τ ← 0.9·τ

The first inner step has the direction of SGD. The method saves calls of the loss, which cost next
to nothing here: each inner step is a full pass, so expect no gain.

State: τ.
Departures from the paper: each inner step tries one size τ instead of a line search, so that it
always costs the same; τ carries over. Each label must be a single class.
"""

import torch
import torch.nn.functional as F

from harness.batch import labels

INNER = 4
PASSES = {"forward_backward": 4, "forward": 4}
SPACE = {"eta": {"log": [0.1, 1000.0]}, "tau": {"log": [1e-2, 10.0]}}


def surrogate(z, start, d, eta):
    """Return S of logits z, their start and the gradients d, all [B, classes]."""
    return ((d * z).sum(1) + (z - start).square().sum(1) / (2 * eta)).mean()


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.tau = task, hp, hp.tau

    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        targets = labels(batch)
        start, d, first = None, None, None

        def loss(model, batch):
            nonlocal start, d, first
            z = task.logits(batch)
            if start is None:
                start = z.detach().clone().requires_grad_(True)
                with torch.enable_grad():
                    first = F.cross_entropy(start, targets, reduction="sum")
                (d,) = torch.autograd.grad(first, start)
                start = start.detach()
            return surrogate(z, start, d, hp.eta)

        for _ in range(INNER):
            before = task.backward(batch, loss)
            params = [p for p in task.params if p.grad is not None]
            square = sum(float(p.grad.square().sum()) for p in params)
            self.move(params, -self.tau)
            after = surrogate(task.logits_of(task.params, batch), start, d, hp.eta)
            if after <= before - self.tau * square / 2:
                self.tau *= 1.8
            else:
                self.move(params, self.tau)
                self.tau *= 0.9
        return first.detach() / len(targets)

    @torch.no_grad()
    def move(self, params, length):
        """Add length times the gradient to the parameters."""
        for p in params:
            p.add_(p.grad, alpha=length)

    def state_dict(self):
        return {"tau": self.tau}

    def load_state_dict(self, state):
        self.tau = state["tau"]
