"""DP-FTRL: weights follow a noisy sum of all clipped gradients so far, by tree aggregation.

Kairouz et al., "Practical and Private (Deep) Learning Without Sampling or Shuffling",
arXiv 2103.00039, Algorithm 1, with a tree of its own for each epoch.

    S_t = Σ_{s ≤ t} Σᵢ gᵢ·min(1, C/‖gᵢ‖)/(q·N) + noise of the tree's nodes
    v ← β·v + S_t;  x ← x₀ − lr·v  (β = 0: x ← x₀ − lr·S_t)

Each example is in one batch of an epoch, and no privacy comes from sampling, so a gradient needs
more noise than in DP-SGD; a sum has little. σ is the least at which the horizon spends `epsilon`.
The task draws batches and noise.
State: v and the first weights, two words per parameter; the task keeps the tree, three to six.
Departures from the paper: it cuts an epoch into batches of a random order; without the estimator
that lowers the variance of a node by its children.
"""

import torch

from harness import ops

PASSES = {"per_example_gradients": 1}
SPACE = {
    "lr": {"log": [0.003, 3.0], "default": 0.03},
    "momentum": {"choice": [0.9, 0.0]},
    "clip": {"log": [0.01, 10.0], "default": 1.0},
    "epsilon": {"linear": [0.5, 10.0], "default": 3.0, "goal": "epsilon"},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.noise = task.private_noise(hp.epsilon, tree=True)
        first = ops.copies(task.params)
        self.state = {"first": first, "v": ops.zeros(first)}

    @torch.no_grad()
    def step(self):
        hp, state = self.hp, self.state
        torch._foreach_mul_(state["v"], hp.momentum)
        torch._foreach_add_(state["v"], self.task.private_sum(hp.clip, self.noise))
        params = [p.data for p in self.task.params]
        torch._foreach_copy_(params, state["first"])
        torch._foreach_add_(params, state["v"], alpha=-hp.lr)

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
