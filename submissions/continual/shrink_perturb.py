"""Shrink and perturb: the weights shrink, and a little of a new network is added.

Ash and Adams, "On Warm-Starting Neural Network Training", arXiv 1910.08475; in every step as in
Dohare et al., arXiv 2306.13812.

    finetune's step;  θ ← (1 − shrink)·θ + scale·θ_new, θ_new a network with new initial weights
    when = step: in every step;  boundary: at the first step of each task alone, by the constants
    boundary_shrink and boundary_scale

State: finetune's.
Departures from the paper: new weights are drawn by torch's own initialisation of each layer. The
boundary's constants are those of the command in the authors' repository, which keeps 0.4 of the
weights and adds 0.1 of new ones.
"""

import copy

import torch

from harness import ops
from submissions.continual import finetune

TRACKS = ["continual"]
SPACE = {
    **finetune.SPACE,
    "lr": {"log": [1e-4, 1e-2], "default": 1e-3},
    "adaptive": True,
    "shrink": {"log": [1e-5, 1e-2], "default": 1e-3},
    "scale": {"log": [1e-5, 1e-2], "default": 1e-3},
    "when": "step",
    "boundary_shrink": 0.6,
    "boundary_scale": 0.1,
}
VARIANTS = {"shrink_perturb_boundary": {"when": "boundary"}}


def renew(model):
    """Draw all weights of a model anew, by torch's initialisation of each layer."""
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.state = task, hp, finetune.init(task.params, hp)
        self.new = copy.deepcopy(task.model)

    def step(self):
        task, hp = self.task, self.hp
        loss = task.forward_backward(task.next_batch())
        ops.apply(finetune.update, task.params, self.state, hp, task.progress)
        if hp.when == "step":
            self.perturb(hp.shrink, hp.scale)
        elif task.boundary and task.step:
            self.perturb(hp.boundary_shrink, hp.boundary_scale)
        return loss

    def perturb(self, shrink, scale):
        """Shrink the weights, and add a share of new initial ones."""
        renew(self.new)
        drawn = [p.data for p in self.new.parameters() if p.requires_grad]
        torch._foreach_mul_([p.data for p in self.task.params], 1 - shrink)
        torch._foreach_add_([p.data for p in self.task.params], drawn, alpha=scale)

    def state_dict(self):
        return {"state": self.state}

    def load_state_dict(self, saved):
        self.state = saved["state"]
