"""DP-SGD: every example's gradient is clipped, and noise is added to their sum.

Abadi et al., "Deep Learning with Differential Privacy", arXiv 1607.00133, Algorithm 1.

    g = (Σᵢ gᵢ·min(1, C/‖gᵢ‖) + C·σ·N(0, I))/B, ‖·‖ over all parameters of one example;
    then SGD with momentum on g

State: momentum, one word per parameter.
Departures from the paper: batches are of one size and from a permutation, not Poisson samples, and
the momentum is added; the privacy spent is for an accountant to say, from σ, B and the steps.
"""

import torch

from submissions.first_order import sgd

PASSES = {"per_example_gradients": 1}
SPACE = {**sgd.SPACE, "clip": {"log": [0.1, 10.0]}, "noise": {"choice": [0.1, 0.0, 1.0]}}


def privatise(examples, clip, noise, generator):
    """Mean of clipped gradients ([B, *shape] each) with the noise of one draw."""
    count = len(examples[0])
    norms = sum(g.flatten(1).square().sum(dim=1) for g in examples).sqrt()
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
