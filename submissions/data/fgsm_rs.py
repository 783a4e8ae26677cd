"""FGSM-RS: AdamW on inputs after one large signed step from a random point of the box.

Wong, Rice and Kolter, "Fast is better than free: Revisiting adversarial training",
arXiv 2001.03994, Algorithm 3.

    δ uniform in the box of radius ε;  δ ← clip(δ + 1.25ε·sign ∇ₓℓ(x + δ), −ε, ε);  descend ℓ(x + δ)

State: AdamW's m and v, two words per parameter.
Departures from the paper: a cosine schedule and AdamW take the place of a cyclic schedule and SGD.
"""

from harness import ops
from submissions.data.pgd import ascend, inputs_of, nats, uniform
from submissions.first_order import adamw

PASSES = {"forward_backward": 2}
SPACE = {
    **adamw.SPACE,
    "radius": {"linear": [0.0, 0.3], "default": 0.15},
    "stride": {"linear": [0.5, 2.0], "default": 1.25},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)

    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        moved = uniform(inputs_of(batch), hp.radius, task.rng)
        moved = ascend(task, batch, moved, nats(task), hp.radius * hp.stride, hp.radius)
        loss = task.forward_backward(batch | {"inputs": moved})
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
