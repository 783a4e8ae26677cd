"""Doubly robust: PGD training on attacked inputs weighted by the exponential of their loss.

Sow et al., "Doubly Robust Instance-Reweighted Adversarial Training", arXiv 2308.00311: the weights
of the worst distribution near the uniform one, in Kullback-Leibler divergence.

    minimise λ·log mean exp(ℓ_i/λ), ℓ_i the loss of an input after three signed steps as in `pgd`
    u ← (1 − β)·u + β·mean_B exp(ℓ_i/λ);  descend mean_B (exp(ℓ_i/λ)/u)·ℓ_i, the weights constant

u estimates the inner mean over all examples, which a batch alone would bias. λ → ∞ is `pgd`.
State: AdamW's m and v, two words per parameter; u.
Departures from the paper: its attack follows a log-barrier with implicit gradients, here it is
projected ascent; u is kept relative to the batch's largest loss, so that nothing overflows; known
from its abstract and reviews, not compared with the paper's text.
"""

import math

from harness import ops
from submissions.data.pgd import STEPS, ascend, inputs_of, nats, uniform
from submissions.first_order import adamw

PASSES = {"forward_backward": 4}
SPACE = {
    **adamw.SPACE,
    "radius": {"linear": [0.0, 0.3], "default": 0.15},
    "stride": {"linear": [0.2, 1.0], "default": 0.6},
    "temperature": {"log": [0.3, 30.0], "default": 3.0},
    "memory": {"linear": [0.0, 0.99], "default": 0.9},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        # log u; there is no mean before the first batch.
        self.state = adamw.init(task.params, hp) | {"log_mean": None}

    def weights(self, losses):
        """Return each example's weight, and take the batch into the mean."""
        scaled, memory, known = losses / self.hp.temperature, self.hp.memory, self.state["log_mean"]
        batch = float(scaled.logsumexp(dim=0)) - math.log(len(scaled))
        if known is not None and memory > 0:
            old, new = known + math.log(memory), batch + math.log(1 - memory)
            batch = max(old, new) + math.log1p(math.exp(-abs(old - new)))
        self.state["log_mean"] = batch
        return (scaled - batch).exp()

    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        moved = uniform(inputs_of(batch), hp.radius, task.rng)
        for _ in range(STEPS):
            moved = ascend(task, batch, moved, nats(task), hp.radius * hp.stride, hp.radius)

        def weighted(model, attacked):
            losses = task.nats(task.logits(attacked), attacked)
            return (self.weights(losses.detach()) * losses).mean()

        loss = task.backward(batch | {"inputs": moved}, weighted)
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
