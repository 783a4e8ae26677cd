"""HAT: each task learns gates of the units; what earlier tasks' gates use hardly moves.

Serra et al., "Overcoming catastrophic forgetting with hard attention to the task",
arXiv 1801.01423.

    a = σ(s·e) multiplies each layer's units, e [units] of each task;  within each of `ramps` parts
    of a task s rises linearly from 1/smax to smax
    L = nats + lam·Σ a(1 − a_prev) / Σ (1 − a_prev)
    ∂L/∂w_ij ← (1 − min(a_prev_i, a_prev_j))·∂L/∂w_ij, SGD;  clip the global norm
    ∂L/∂e ← smax/s·(cosh(s·e) + 1)/(cosh(e) + 1)·∂L/∂e, s·e within ±50;  SGD;  e within ±6
    at a task's end: a_prev ← max(a_prev, σ(smax·e))
    task k is answered with its gates at smax; the scores of a class are those of its task

The gate is positive, so that ReLU(a·z) = a·ReLU(z): it is folded into the layer's weights.

State: the weights without gates; e of every task; a_prev; which task taught each class.
Departures from the paper: s rises in `ramps` parts, the authors' epochs; tasks share a readout, of
which a class's row is its own head; no dropout. Without a task an answer compares all tasks.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.func import functional_call

from harness import ops
from harness.errors import UserError
from harness.memory import labels
from submissions.continual import packnet

TRACKS = ["continual"]
SPACE = {
    "lr": {"log": [1e-3, 0.3], "default": 0.05},
    "lam": {"log": [0.01, 3.0], "default": 0.75},
    "smax": {"log": [50.0, 800.0], "default": 400.0},
    "ramps": {"int": [1, 20], "default": 10},
    "clip": 1e4,
}


def stack(model):
    """Return the hidden linear layers in order; raise UserError if they are no plain stack."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    hidden = layers[:-1]
    widths = [(m.in_features, m.out_features) for m in layers]
    chained = all(a[1] == b[0] for a, b in pairwise(widths))
    matrices = sum(p.ndim > 1 for p in model.parameters())
    if not hidden or not chained or matrices != len(layers):
        raise UserError("hat gates the units of a stack of linear layers", "a model of kind mlp")
    return hidden


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.layers = task, hp, stack(task.model)
        self.names = {id(p): name for name, p in task.model.named_parameters()}
        self.raw, self.gates = ops.copies(task.params), []
        self.used = [torch.zeros_like(m.weight[:, 0]) for m in self.layers]
        self.taught = torch.zeros(0, 0, dtype=torch.bool)

    def step(self):
        task, hp = self.task, self.hp
        first, length = task.segment
        if task.boundary:
            if self.gates:
                kept = [torch.sigmoid(hp.smax * e) for e in self.gates[-1]]
                self.used = [torch.maximum(u, a) for u, a in zip(self.used, kept, strict=True)]
            drawn = [torch.randn(u.shape, generator=task.rng, dtype=u.dtype) for u in self.used]
            self.gates.append([d.to(u.device) for d, u in zip(drawn, self.used, strict=True)])
        part = max(1, length // hp.ramps)
        ramp = ((task.step - first) % part) / max(1, part - 1)
        s = 1 / hp.smax + (hp.smax - 1 / hp.smax) * ramp
        a = [torch.sigmoid(s * e) for e in self.gates[-1]]
        self.write(a)
        loss = task.backward(task.next_batch(), self.own)
        slopes = self.chain(a)
        self.protect()
        grads = [p.grad for p in task.params]
        torch._foreach_mul_(grads, ops.clip_factor(grads, hp.clip))
        torch._foreach_add_(self.raw, grads, alpha=-hp.lr)
        self.move(a, slopes, s)
        self.write([torch.sigmoid(hp.smax * e) for e in self.gates[-1]])
        return loss

    def own(self, model, batch):
        scores, number = self.task.logits(batch), len(self.gates)
        self.taught = packnet.learnt(self.taught, labels(batch), scores.shape[-1], number)
        others = ~self.taught[number - 1].to(scores.device)
        return self.task.nats(scores.masked_fill(others, -torch.inf), batch).mean()

    def gated(self, a):
        """Return the parameters with these gates folded in, in the order of task.params."""
        folded = {}
        for layer, gate in zip(self.layers, a, strict=True):
            folded[id(layer.weight)] = gate[:, None]
            folded[id(layer.bias)] = gate
        return [raw * folded.get(id(p), 1) for p, raw in zip(self.task.params, self.raw)]

    @torch.no_grad()
    def write(self, a):
        torch._foreach_copy_([p.data for p in self.task.params], self.gated(a))

    def chain(self, a):
        """Turn the gradients into those of the raw weights; return ∂L/∂a of each layer."""
        where = {id(p): i for i, p in enumerate(self.task.params)}
        slopes = []
        for layer, gate in zip(self.layers, a, strict=True):
            w, b = layer.weight, layer.bias
            raw = self.raw[where[id(w)]], self.raw[where[id(b)]]
            slopes.append((w.grad * raw[0]).sum(1) + b.grad * raw[1])
            w.grad.mul_(gate[:, None])
            b.grad.mul_(gate)
        return slopes

    def protect(self):
        """Keep still what connects units that earlier tasks use, and rows of others' classes."""
        before = torch.ones_like(self.layers[0].weight[0])
        for layer, used in zip(self.layers, self.used, strict=True):
            layer.weight.grad.mul_(1 - torch.minimum(used[:, None], before[None]))
            layer.bias.grad.mul_(1 - used)
            before = used

    def move(self, a, slopes, s):
        """Step on the gates' embeddings, with the sparsity term and the compensation."""
        hp = self.hp
        total = sum(float((1 - used).sum()) for used in self.used)
        for e, gate, slope, used in zip(self.gates[-1], a, slopes, self.used, strict=True):
            slope = slope + hp.lam * (1 - used) / max(total, 1e-12)
            g = slope * s * gate * (1 - gate)
            g *= hp.smax / s * (torch.cosh((s * e).clamp(-50, 50)) + 1) / (torch.cosh(e) + 1)
            e.sub_(g, alpha=hp.lr).clamp_(-6, 6)

    def state_dict(self):
        return {name: getattr(self, name) for name in ("raw", "gates", "used", "taught")}

    def load_state_dict(self, saved):
        for name, value in saved.items():
            setattr(self, name, value)


@torch.no_grad()
def predict(algorithm, inputs):
    """Return scores [B, C] of inputs of unknown tasks, each class by its task's gates."""
    a, each = algorithm, []
    for gates in a.gates:
        values = a.gated([torch.sigmoid(a.hp.smax * e) for e in gates])
        weights = {a.names[id(p)]: v for p, v in zip(a.task.params, values, strict=True)}
        each.append(functional_call(a.task.model, weights, (inputs,)))
    return packnet.by_class(torch.stack(each), a.taught) if each else a.task.model(inputs)
