"""DP-SGD: SGD on the sum of clipped per-example gradients plus noise.

Abadi et al., "Deep Learning with Differential Privacy", arXiv 1607.00133, Algorithm 1.

    g = (Σᵢ gᵢ·min(1, C/‖gᵢ‖) + C·σ·N(0, I))/B, ‖·‖ over all parameters of one example
    SGD with momentum on g

State: momentum, one word per parameter.
Departures from the paper: batches have one size and come from a permutation, not from Poisson
sampling; momentum is added. A privacy accountant must compute the privacy spent from σ, B and the
steps.
"""

import torch

from submissions.first_order import sgd

PASSES = {"per_example_gradients": 1}
SPACE = {**sgd.SPACE, "clip": {"log": [0.1, 10.0]}, "noise": {"choice": [0.1, 0.0, 1.0]}}


def privatise(examples, clip, noise, generator):
    """Return the mean of clipped gradients ([B, *shape] each) plus one draw of noise."""
    count = len(examples[0])
    norms = sum(g.reshape(count, -1).square().sum(dim=1) for g in examples).sqrt()
    factor = (clip / (norms + 1e-6)).clamp(max=1.0)
    means = []
    for g in examples:
        total = torch.einsum("b,b...->...", factor, g)
        drawn = torch.randn(total.shape, generator=generator).to(total)
        means.append(total.add_(drawn, alpha=clip * noise) / count)
    return means


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = sgd.init(task.params, hp)

    def step(self):
        task, hp = self.task, self.hp
        examples = task.per_example_grads(task.next_batch())
        with torch.no_grad():
            grads = privatise(examples, hp.clip, hp.noise, task.rng)
            sgd.update([p.data for p in task.params], grads, self.state, hp, task.progress)

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
