"""DP-AdamW: AdamW on noisy sums of clipped gradients.

Abadi et al., "Deep Learning with Differential Privacy", arXiv 1607.00133, with the update of
Loshchilov and Hutter, arXiv 1711.05101.

    g = (Σᵢ gᵢ·min(1, C/‖gᵢ‖) + C·σ·N(0, I))/(q·N) over a Poisson sample;  AdamW on g

Whatever is computed from private gradients alone is private, so AdamW needs no change.
State: m and v, two words per parameter.
Departures from the paper: none.
"""

import torch

from submissions.first_order import adamw

PASSES = {"per_example_gradients": 1}
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [1e-3, 3e-2], "default": 6e-3},
    "clip": {"log": [0.01, 10.0], "default": 0.1},
    "epsilon": {"linear": [0.5, 10.0], "default": 3.0, "goal": "epsilon"},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.noise = task.private_noise(hp.epsilon)
        self.state = adamw.init(task.params, hp)

    def step(self):
        task, hp = self.task, self.hp
        grads = task.private_gradient(hp.clip, self.noise)
        with torch.no_grad():
            adamw.update([p.data for p in task.params], grads, self.state, hp, task.progress)

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
