"""Private layers: DP-SGD that clips each layer's gradients on their own; layers take turns.

McMahan, Ramage, Talwar and Zhang, "Learning Differentially Private Recurrent Language Models",
arXiv 1710.06963, section 3 (per-layer clipping); He et al., arXiv 2212.01539.

    step t, layer l = t mod L:  g = (Σᵢ gᵢ,ₗ·min(1, C/‖gᵢ,ₗ‖) + C·σ·N(0, I))/(q·N) over a Poisson
    sample;  SGD with momentum on layer l alone

A layer is a module with parameters of its own. Each call sees the gradients of one layer, so the
clip is that layer's. σ is the least at which one call in each step of the horizon spends
`epsilon`. The task draws sample and noise.
State: momentum, one word per parameter.
Departures from the paper: it clips all layers of one sample, with noise for √L·C. Here a layer has
a sample of its own, because a call clips all that trains as a whole. L such calls spend about what
one call for all layers does with the same noise. Each is charged a pass through all layers.
"""

import torch

from submissions.distributed.adaptive_dp_sgd import layers
from submissions.first_order import sgd
from submissions.private import private_sgd

PASSES = {"per_example_gradients": 1}
SPACE = {
    **sgd.SPACE,
    "lr": {"log": [0.03, 10.0], "default": 1.0},
    "momentum": {"choice": [0.9, 0.95]},
    # Above private_sgd's: a layer moves in one step of L.
    "clip": {"log": [0.01, 10.0], "default": 0.3},
    "epsilon": {"linear": [0.5, 10.0], "default": 3.0, "goal": "epsilon"},
}


class Algorithm(private_sgd.Algorithm):
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.noise = task.private_noise(hp.epsilon)
        self.all, self.layers = task.params, layers(task)
        self.state = sgd.init(self.all, hp)

    def step(self):
        task, hp = self.task, self.hp
        places = self.layers[task.step % len(self.layers)]
        for i, p in enumerate(self.all):
            p.requires_grad_(i in places)
        grads = task.private_gradient(hp.clip, self.noise)
        for p in self.all:
            p.requires_grad_(True)
        own = {"b": [self.state["b"][i] for i in places]}
        with torch.no_grad():
            sgd.update([self.all[i].data for i in places], grads, own, hp, task.progress)
