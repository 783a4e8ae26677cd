"""ReDo: units that hardly ever answer get new weights.

Sokar et al., "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", arXiv 2302.12902.

    every `period` steps, on a batch: score_i = mean |h_i| / (the layer's mean of mean |h| + 1e-9)
    where score_i ≤ tau: incoming weights drawn anew, bias 0, outgoing weights 0, and finetune's
    moments of all of these 0
    otherwise finetune's step

State: finetune's.
Departures from the paper: the layer's activations are those that reach the next linear layer; new
weights are drawn by torch's own initialisation.
"""

from itertools import pairwise

import torch

from harness import ops
from harness.errors import UserError
from submissions.continual import finetune

TRACKS = ["continual"]
PASSES = {"forward_backward": 1, "forward": 0.01}
SPACE = {
    **finetune.SPACE,
    "lr": {"log": [1e-4, 1e-2], "default": 1e-3},
    "adaptive": True,
    "tau": {"choice": [0.1, 0.025, 0.0]},
    "period": {"choice": [100, 400, 1000]},
}


def layers(maps):
    """Return (layer, next layer, activations between them [B, units]) of a stack of linear maps."""
    found = [
        (a[0], b[0], b[1].flatten(0, -2))
        for a, b in pairwise(maps)
        if a[0].out_features == b[0].in_features
    ]
    if not found or len(found) < len(maps) - 1:
        raise UserError("units are recycled in a stack of linear layers", "a model of kind mlp")
    return found


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.state = task, hp, finetune.init(task.params, hp)

    def step(self):
        task, hp = self.task, self.hp
        batch = task.next_batch()
        if task.step and task.step % hp.period == 0:
            for layer, following, h in layers(task.linear_maps(batch)[1]):
                size = h.abs().mean(0)
                self.recycle(layer, following, size / (size.mean() + 1e-9) <= hp.tau)
        loss = task.forward_backward(batch)
        ops.apply(finetune.update, task.params, self.state, hp, task.progress)
        return loss

    @torch.no_grad()
    def recycle(self, layer, following, dormant):
        """Give dormant units new weights; dormant is a bool of each unit of the layer."""
        weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
        layer.reset_parameters()
        layer.weight[~dormant] = weight[~dormant]
        layer.bias.copy_(torch.where(dormant, 0.0, bias))
        places = {id(p): i for i, p in enumerate(self.task.params)}
        following.weight[:, dormant] = 0.0
        for moments in (self.state["m"], self.state.get("v")):
            if moments is not None:
                moments[places[id(layer.weight)]][dormant] = 0.0
                moments[places[id(layer.bias)]][dormant] = 0.0
                moments[places[id(following.weight)]][:, dormant] = 0.0

    def state_dict(self):
        return {"state": self.state}

    def load_state_dict(self, saved):
        self.state = saved["state"]
