"""Continual backprop: in every step the least useful mature units are replaced by new ones.

Dohare et al., "Loss of plasticity in deep continual learning", Nature 632 (2024), arXiv 2306.13812.

    u ← d·u + (1 − d)·y,  y_i = mean_j |w_ji|·mean |h_i|  (contribution), or
        mean_j |w_ji|·mean |h_i − ĥ_i| / mean |incoming w_i|  (adaptable)
    h̄ ← d·h̄ + (1 − d)·mean h;  ĥ = h̄/(1 − d^age)
    of the units older than `maturity`, `rate` times their number, those of least u/(1 − d^age), are
    replaced: the next bias gains w·ĥ, outgoing weights 0, incoming uniform ±√(6/inputs), bias 0
    Adam with bias corrections of its own for each weight, 1 − β^t with t its number of steps: they
    begin anew for the weights of a new unit

State: Adam's m, v and two corrections, four words per parameter; u, h̄ and the age of each unit.
Departures from the paper: activations come from one more forward pass of the batch.
"""

import torch

from harness import ops
from submissions.continual import redo

TRACKS = ["continual"]
PASSES = {"forward_backward": 1, "forward": 1}
SPACE = {
    "lr": {"log": [1e-4, 1e-2], "default": 1e-3},
    "rate": {"log": [1e-5, 1e-2], "default": 1e-3},
    "maturity": {"choice": [100, 1000]},
    "utility": {"choice": ["contribution", "adaptable"]},
    "keep": 0.99,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.moments = {name: ops.zeros(task.params) for name in ("m", "v", "first", "second")}
        self.units, self.due = [], []

    def step(self):
        task = self.task
        batch = task.next_batch()
        found = redo.layers(task.linear_maps(batch)[1])
        loss = task.forward_backward(batch)
        self.descend()
        if not self.units:
            empty = [torch.zeros_like(h[0]) for _, _, h in found]
            self.units = [{k: e.clone() for k in ("u", "mean", "age")} for e in empty]
            self.due = [0.0] * len(found)
        for i, (layer, following, h) in enumerate(found):
            self.judge(i, layer, following, h)
        return loss

    @torch.no_grad()
    def descend(self):
        """Make Adam's step, each weight at its own number of steps."""
        hp, params = self.hp, self.task.params
        grads = [p.grad for p in params]
        m, v, first, second = (self.moments[name] for name in ("m", "v", "first", "second"))
        torch._foreach_lerp_(m, grads, 1 - hp.beta1)
        torch._foreach_mul_(v, hp.beta2)
        torch._foreach_addcmul_(v, grads, grads, value=1 - hp.beta2)
        for correction, beta in ((first, hp.beta1), (second, hp.beta2)):
            torch._foreach_mul_(correction, beta)
            torch._foreach_add_(correction, 1 - beta)
        root = torch._foreach_div(v, second)
        torch._foreach_sqrt_(root)
        torch._foreach_add_(root, hp.eps)
        torch._foreach_mul_(root, first)
        torch._foreach_addcdiv_([p.data for p in params], m, root, value=-hp.lr)

    @torch.no_grad()
    def judge(self, i, layer, following, h):
        """Bring the utilities of a layer's units up to date, and replace the least useful."""
        hp, unit = self.hp, self.units[i]
        unit["age"] += 1
        unit["mean"].lerp_(h.mean(0), 1 - hp.keep)
        trust = 1 - hp.keep ** unit["age"]
        mean = unit["mean"] / trust
        value = following.weight.abs().mean(0)
        if hp.utility == "contribution":
            value = value * h.abs().mean(0)
        else:
            value = value * (h - mean).abs().mean(0) / layer.weight.abs().mean(1)
        unit["u"].lerp_(value, 1 - hp.keep)
        mature = unit["age"] > hp.maturity
        self.due[i] += hp.rate * int(mature.sum())
        if self.due[i] >= 1:
            count = int(self.due[i])
            self.due[i] -= count
            useful = (unit["u"] / trust).masked_fill(~mature, torch.inf)
            self.replace(i, layer, following, useful.topk(count, largest=False).indices, mean)

    def replace(self, i, layer, following, old, mean):
        following.bias.add_(following.weight[:, old] @ mean[old])
        following.weight[:, old] = 0.0
        inputs = layer.weight.shape[1]
        drawn = torch.rand((len(old), inputs), generator=self.task.rng, dtype=torch.float64)
        layer.weight[old] = ((2 * drawn - 1) * (6 / inputs) ** 0.5).to(layer.weight)
        layer.bias[old] = 0.0
        places = {id(p): j for j, p in enumerate(self.task.params)}
        for tensors in self.moments.values():
            tensors[places[id(layer.weight)]][old] = 0.0
            tensors[places[id(layer.bias)]][old] = 0.0
            tensors[places[id(following.weight)]][:, old] = 0.0
        for value in self.units[i].values():
            value[old] = 0.0

    def state_dict(self):
        return {"moments": self.moments, "units": self.units, "due": self.due}

    def load_state_dict(self, saved):
        self.moments, self.units, self.due = saved["moments"], saved["units"], saved["due"]
