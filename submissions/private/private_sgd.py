"""Private SGD: DP-SGD on Poisson samples, with momentum, and as much noise as the goal's ε needs.

Abadi et al., "Deep Learning with Differential Privacy", arXiv 1607.00133, Algorithm 1.

    g = (Σᵢ gᵢ·min(1, C/‖gᵢ‖) + C·σ·N(0, I))/(q·N) over a Poisson sample;  SGD with momentum on g

The variant `automatic_clipping` has the factor C/(‖gᵢ‖ + 0.01) (Bu et al., arXiv 2206.07136).
σ is the least at which one such gradient in each step of the horizon spends `epsilon`, which is the
goal's bound. The task draws sample and noise.
State: momentum, one word per parameter.
Departures from the paper: momentum is added.
"""

import torch

from submissions.first_order import sgd

PASSES = {"per_example_gradients": 1}
SPACE = {
    **sgd.SPACE,
    "lr": {"log": [0.03, 10.0], "default": 1.0},
    "momentum": {"choice": [0.9, 0.95]},
    "clip": {"log": [0.01, 10.0], "default": 0.1},
    "automatic": {"choice": [False, True]},
    "epsilon": {"linear": [0.5, 10.0], "default": 3.0, "goal": "epsilon"},
}
VARIANTS = {"automatic_clipping": {"automatic": True}}
# γ of the factor C/(‖g‖ + γ).
STABILITY = 0.01


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.noise = task.private_noise(hp.epsilon)
        self.state = sgd.init(task.params, hp)

    def step(self):
        task, hp = self.task, self.hp
        grads = task.private_gradient(hp.clip, self.noise, STABILITY if hp.automatic else None)
        with torch.no_grad():
            sgd.update([p.data for p in task.params], grads, self.state, hp, task.progress)

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
