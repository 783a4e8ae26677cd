"""OptEx: several steps at once, the way between them predicted by a Gaussian process.

Shu, Fang, He and Yu, "OptEx: Expediting First-Order Optimization with Approximately Parallelized
Iterations", arXiv 2402.11427.

    X, G = the last `history` points with their gradients;  K = Matérn-5/2 kernel of X + noise·I
    μ(p) = k(p, X)·K⁻¹·G;  p₀ = p;  p_j = base step from p_{j−1} with μ(p_{j−1}), j = 1 ... 3
    true gradients at p₀ ... p₃ join the history;  p ← base step from p₃ with its true gradient

The base is AdamW. Four devices would take the four gradients at once. Here they are four passes, so
that only the number of steps can fall, not the time.

State: AdamW's m and v, 2·history words per parameter of points and gradients; how many there are.
Departures from the paper: the kernel's length is in units of the mean distance within the history;
a history of 20 pairs by default, not 50; below two pairs the predicted gradient is 0.
"""

import torch

from submissions.first_order import adamw

POINTS = 4
PASSES = {"forward_backward": 4}
SPACE = {
    **adamw.SPACE,
    "history": {"choice": [20, 8, 50]},
    "length": {"log": [0.3, 30.0]},
    "noise": 1e-3,
}


def matern(distance):
    """Return the Matérn kernel of smoothness 5/2 at distances over its length."""
    r = 5**0.5 * distance
    return (1 + r + r * r / 3) * torch.exp(-r)


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        size = sum(p.numel() for p in task.params)
        empty = flat(task.params).new_zeros(hp.history, size)
        past = {"points": empty, "gradients": empty.clone(), "count": 0}
        self.state = adamw.init(task.params, hp) | past

    def predictor(self):
        """Return μ, a function of a flat point, from the history as it is now."""
        count = min(self.state["count"], self.hp.history)
        x, g = self.state["points"][:count].clone(), self.state["gradients"][:count].clone()
        if count < 2:
            return torch.zeros_like
        apart = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        length = self.hp.length * (apart.sum() / (count * (count - 1))).clamp(min=1e-30)
        kernel = matern(apart / length)
        kernel.diagonal().add_(self.hp.noise)
        factor = torch.linalg.cholesky(kernel.double())

        def mean(point):
            near = matern((x - point).norm(dim=1) / length)
            weights = torch.cholesky_solve(near.double()[:, None], factor)[:, 0]
            return weights.to(g) @ g

        return mean

    def step(self):
        task, state, predict = self.task, self.state, self.predictor()
        batches = [task.next_batch() for _ in range(POINTS)]
        for number, batch in enumerate(batches):
            loss = task.forward_backward(batch)
            point = flat(task.params)
            zero = torch.zeros_like
            true = flat([zero(p) if p.grad is None else p.grad for p in task.params])
            slot = state["count"] % self.hp.history
            state["points"][slot], state["gradients"][slot] = point, true
            state["count"] += 1
            self.base(true if number == POINTS - 1 else predict(point))
        return loss

    @torch.no_grad()
    def base(self, gradient):
        """Make AdamW's step with a flat gradient."""
        params = [p.data for p in self.task.params]
        parts = gradient.split([p.numel() for p in params])
        grads = [part.view_as(p) for part, p in zip(parts, params, strict=True)]
        adamw.update(params, grads, self.state, self.hp, self.task.progress)

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
