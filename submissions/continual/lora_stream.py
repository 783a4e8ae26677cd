"""LoRA on a stream: low-rank products beside frozen matrices, kept or merged at each boundary.

LoRA: Hu et al., arXiv 2106.09685; `orthogonal`, O-LoRA: Wang et al., "Orthogonal Subspace Learning
for Language Model Continual Learning", arXiv 2310.14152; `threshold`, CoDyRA: Lu et al.,
arXiv 2412.01004.

    W' = W + (α/r)·B·diag(g)·A, A and B as in `lora`;  the readout trains too;  Adam
    keep        one product trains through all tasks; g = 1
    merge       at a boundary W ← W', A is drawn anew, B = 0, Adam starts anew; g = 1
    orthogonal  merge, and the loss gains λ·Σ|A_old·Aᵀ| over all elements and earlier tasks; g = 1
    threshold   merge, and g trains; in the second half of a task, after each step,
                g ← sign(g)·max(|g| − κ, 0), κ from 0 up to `kappa`

State: Adam's two words for A, B and g, r(in + out + 1) scalars a matrix; orthogonal: the earlier A.
Departures from the paper: the readout is shared by all tasks; CoDyRA's κ and its dense half could
not be read in the paper's text; under Adam κ is not multiplied by the learning rate.
"""

import torch
import torch.nn.functional as F
from torch import nn

from harness import ops, surgery

TRACKS = ["continual"]
SPACE = {
    "lr": {"log": [1e-4, 3e-2], "default": 3e-3},
    "rank": {"int": [1, 16], "default": 4},
    "alpha": 8.0,
    "rule": {"choice": ["keep", "merge", "orthogonal", "threshold"], "tuned": False},
    "penalty": 0.5,  # λ
    "kappa": 0.005,
    "beta1": 0.9,
    "beta2": 0.999,
}
VARIANTS = {
    "lora_merge": {"rule": "merge"},
    "lora_orthogonal": {"rule": "orthogonal"},
    "lora_codyra": {"rule": "threshold"},
}


class Product(surgery.Adapted):
    """A frozen matrix [out, in] and a product of `rank`; with `gated` each rank has a weight."""

    def __init__(self, linear, rank, scale, gated):
        super().__init__(linear)
        out, inputs = self.weight.shape
        self.scale = scale
        self.A = nn.Parameter(self.weight.new_empty(rank, inputs))
        self.B = nn.Parameter(self.weight.new_zeros(out, rank))
        self.g = nn.Parameter(self.weight.new_ones(rank), requires_grad=gated)
        self.draw(None)

    @torch.no_grad()
    def draw(self, rng):
        """Draw A anew, and add nothing."""
        bound = self.A.shape[1] ** -0.5
        drawn = torch.rand(self.A.shape, dtype=self.A.dtype, generator=rng)
        self.A.copy_(bound * (2 * drawn - 1))
        self.B.zero_()
        self.g.fill_(1.0)

    def dense(self):
        return self.weight + self.scale * (self.B * self.g) @ self.A

    def forward(self, x):
        low = F.linear(x, self.A) * self.g
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(low, self.B)


def adapt(model, task, hp):
    surgery.freeze(model)
    gated = hp.rule == "threshold"
    surgery.replace(model, lambda linear: Product(linear, hp.rank, hp.alpha / hp.rank, gated))


def overlap(earlier, now):
    """Return the sum of |A_old·Aᵀ| over all elements, earlier [k·r, in] and now [r, in]."""
    return (earlier @ now.T).abs().sum()


def shrink_(gate, kappa):
    """Move each element of a tensor towards 0 by kappa, and no further."""
    return gate.copy_(gate.sign() * (gate.abs() - kappa).clamp(min=0))


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.products = [m for m in task.model.modules() if isinstance(m, Product)]
        self.earlier = [p.A.data[:0] for p in self.products]
        self.restart()

    def restart(self):
        params = self.task.params
        self.state = {"m": ops.zeros(params), "v": ops.zeros(params), "step": 0}

    def step(self):
        task, hp, state = self.task, self.hp, self.state
        if hp.rule != "keep" and task.boundary and task.step:
            self.merge()
            state = self.state
        batch = task.next_batch()
        if len(self.earlier[0]):
            loss = task.backward(batch, self.penalised)
        else:
            loss = task.forward_backward(batch)
        values, grads = [p.data for p in task.params], [p.grad for p in task.params]
        state["step"] += 1
        betas = (hp.beta1, hp.beta2)
        ops.adam_(values, grads, state["m"], state["v"], state["step"], hp.lr, betas, 1e-8)
        if hp.rule == "threshold":
            first, length = task.segment
            rise = max(0.0, 2 * (task.step - first + 1) / length - 1)
            for product in self.products:
                shrink_(product.g.data, hp.kappa * rise)
        return loss

    def penalised(self, model, batch):
        task = self.task
        pairs = zip(self.earlier, self.products, strict=True)
        apart = sum(overlap(old, product.A) for old, product in pairs)
        return task.nats(task.logits(batch), batch).mean() + self.hp.penalty * apart

    @torch.no_grad()
    def merge(self):
        """Put the products into their matrices, and begin new ones."""
        for i, product in enumerate(self.products):
            if self.hp.rule == "orthogonal":
                self.earlier[i] = torch.cat([self.earlier[i], product.A.data])
            product.weight.copy_(product.dense())
            product.draw(self.task.rng)
        self.restart()

    def state_dict(self):
        return {"state": self.state, "earlier": self.earlier}

    def load_state_dict(self, saved):
        self.state, self.earlier = saved["state"], saved["earlier"]
