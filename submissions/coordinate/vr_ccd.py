"""VR-CCD: proximal sweeps over four blocks in turn, with PAGE's estimates of their gradients.

Cai, Song, Wright and Diakonikolas, "Cyclic Block Coordinate Descent With Variance Reduction for
Composite Nonconvex Optimization", arXiv 2212.05088; the estimator: PAGE, arXiv 2008.10898.

    for j = 1 ... 4, at the point x_j whose blocks before j are new:
        with probability 1/5 for the whole sweep, v_j = ∇_j f(x_j) on the sweep's batch
        else v_j ← v_j + ∇_j f_S(x_j) − ∇_j f_S(x_j of the sweep before), S a quarter of a batch
        block j of x ← block j of prox(x − lr·v, lr)

Blocks are quarters of the parameters in their order. prox is of the loss's rest (task.composite).
1/5 is b'/(b + b') for the batches b and b' = b/4. A sweep takes a pass for each partial gradient.

State: v and the start of the last sweep, two words per parameter.
Departures from the paper: one step size instead of a Mahalanobis norm; the larger batch is the
workload's own; lr is scheduled.
"""

import torch

from harness.schedules import warmup_cosine

BLOCKS = 4
PASSES = {"forward_backward": 0.8, "forward_backward@batch=1/4": 6.4}
SPACE = {"lr": {"log": [0.01, 1.0]}, "decay": {"choice": [True, False]}}
FULL = 0.2


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        x = flat(task.params)
        self.state = {"v": torch.zeros_like(x), "last": x.clone(), "begun": False}

    def put(self, values):
        """Set the parameters to a flat vector."""
        sizes = [p.numel() for p in self.task.params]
        with torch.no_grad():
            for p, part in zip(self.task.params, values.split(sizes), strict=True):
                p.copy_(part.view_as(p))

    def gradient(self, point, batch):
        """Return loss and flat gradient of the smooth part at a flat point."""
        self.put(point)
        loss = self.task.backward(batch, self.task.composite.smooth)
        zero = torch.zeros_like
        return loss, flat([zero(p) if p.grad is None else p.grad for p in self.task.params])

    def step(self):
        task, state, hp = self.task, self.state, self.hp
        lr = hp.lr * (warmup_cosine(task.progress, 0.0) if hp.decay else 1.0)
        full = float(torch.rand((), generator=task.rng)) < FULL or not state["begun"]
        batch = task.next_batch(None if full else task.batch_size // 4)
        old, v = flat(task.params), state["v"]
        x, before = old.clone(), state["last"].clone()
        for block in torch.arange(len(x)).chunk(BLOCKS):
            loss, g = self.gradient(x, batch)
            if full:
                v[block] = g[block]
            else:
                v[block] += g[block] - self.gradient(before, batch)[1][block]
            before[block] = old[block]
            x[block] = self.proximal(x - lr * v, lr)[block]
        self.put(x)
        state["last"], state["begun"] = old, True
        return loss

    def proximal(self, values, lr):
        """Return the proximal point of a flat vector, as a flat vector."""
        params = self.task.params
        parts = values.split([p.numel() for p in params])
        shaped = [part.view_as(p) for part, p in zip(parts, params, strict=True)]
        return flat(self.task.composite.prox(shaped, lr))

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
