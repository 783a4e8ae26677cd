"""TRADES: AdamW on the loss plus the divergence between predictions on an input and near it.

Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy",
arXiv 1901.08573, Algorithm 1.

    δ from a Gaussian of 1e-3 ascends KL(p(x) ‖ p(x + δ)) by three signed steps in the box
    descend ℓ(x) + β·KL(p(x) ‖ p(x + δ)), both p trained

State: AdamW's m and v, two words per parameter.
Departures from the paper: three steps of the attack, not 10 to 40, and AdamW.
"""

import torch

from harness import ops
from submissions.data.pgd import STEPS, ascend, inputs_of
from submissions.first_order import adamw

PASSES = {"forward": 1, "forward_backward": 3, "forward_backward@batch=2": 1}
SPACE = {
    **adamw.SPACE,
    "radius": {"linear": [0.0, 0.3], "default": 0.15},
    "stride": {"linear": [0.2, 1.0], "default": 0.6},
    "beta": {"linear": [1.0, 10.0], "default": 6.0},
}
# Standard deviation of the start of the attack.
NEAR = 1e-3


def divergence(log, other):
    """Return the mean of KL(p ‖ q) from log p and log q, [B, C] each."""
    return (log.exp() * (log - other)).sum(dim=1).mean()


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)

    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        x, params = inputs_of(batch), [p.data for p in task.params]
        here = task.logits_of(params, batch).log_softmax(dim=1)

        def apart(model, moved):
            return divergence(here, task.logits(moved).log_softmax(dim=1))

        def loss(model, both):
            logits = task.logits(both)
            log, other = logits.log_softmax(dim=1).chunk(2)
            nats = task.nats(logits[: len(x)], batch).mean()
            return nats + hp.beta * divergence(log, other)

        drawn = torch.randn(x.shape, generator=task.rng, dtype=x.dtype).to(x.device)
        moved = (x + NEAR * drawn).clamp(0, 1)
        for _ in range(STEPS):
            moved = ascend(task, batch, moved, apart, hp.radius * hp.stride, hp.radius)
        doubled = {name: torch.cat([value, value]) for name, value in batch.items()}
        value = task.backward(doubled | {"inputs": torch.cat([x, moved])}, loss)
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return value

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
