"""Sophia-G: momentum divided by a Gauss-Newton diagonal, clipped element by element.

Liu et al., "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training",
arXiv 2305.14342, Algorithms 2 and 3.

    m ← β1·m + (1 − β1)g
    every `every` steps, with ĝ the gradient against labels drawn from the model:
        h ← β2·h + (1 − β2)·B·ĝ²
    p ← p(1 − lr·wd) − lr·clip(m/max(γ·h, eps), −1, 1)

State: m and h, two words per parameter.
Departures from the paper: B counts examples, not tokens, so γ absorbs the number of tokens in an
example; ĝ uses the step's own batch.
"""

from harness import ops
from harness.schedules import warmup_cosine

PASSES = {"forward_backward": 1.1}
SPACE = {
    "lr": {"log": [1e-3, 1e-2]},
    "wd": {"log": [1e-2, 1.0]},
    "gamma": {"log": [0.1, 100.0]},
    "beta1": 0.96,
    "beta2": 0.99,
    "every": 10,
    "eps": 1e-12,
    "warmup": 0.05,
}


def descend(params, grads, state, hp, progress):
    """Apply Sophia's step, with m and h as they are."""
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    pairs = zip(state["m"], state["h"], strict=True)
    u = [(m / (h * hp.gamma).clamp_(min=hp.eps)).clamp_(-1.0, 1.0) for m, h in pairs]
    ops.sgd_(params, u, lr, hp.wd)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = {"m": ops.zeros(task.params), "h": ops.zeros(task.params)}

    def step(self):
        task, hp = self.task, self.hp
        params, batch = task.params, task.next_batch()
        loss = task.forward_backward(batch)
        self.average("m", 1.0 - hp.beta1, [p.grad for p in params])
        if task.step % hp.every == 0:
            task.sampled_backward(batch)
            drawn = [None if p.grad is None else task.batch_size * p.grad**2 for p in params]
            self.average("h", 1.0 - hp.beta2, drawn)
        ops.apply(descend, params, self.state, hp, task.progress)
        return loss

    def average(self, name, weight, values):
        for x, value in zip(self.state[name], values, strict=True):
            if value is not None:
                x.lerp_(value, weight)

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
