"""AdaRound: each weight rounds up or down, as is best for the outputs of its matrix.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv 2004.10568; unit
"block": BRECQ, Li et al., arXiv 2102.05426; unit "blocks" and a low rank: CBQ, Ding et al.,
arXiv 2312.07950.

    q = clip(⌊(w - low)/δ⌋ + h, 0, 2^b - 1);  h = clip(1.2·σ(V) - 0.1, 0, 1), first the remainder
    minimise ‖output - dense output‖² + `regular`·Σ(1 - |2h - 1|^β) over V, unit after unit; inputs
    come from the rounded units before, dense outputs from the dense model
    no second term for a fifth of the iterations, then β falls from 20 to 2;  at the end h is 0 or 1
    unit: a matrix, a block, or two blocks of which the next unit shares one
    rank > 0: V = V(0) + A·B of that rank, A = 0 at the start

State: none; nothing is trained after the rounding.
Departures from the paper: grids are those of round to nearest; tens of iterations in place of
20,000, hence the larger learning rate. BRECQ's weights from squared gradients of the outputs, and
CBQ's KL term and outlier scaling, are left out.
"""

import torch

from submissions.quantized import _reconstruction, rtn

TRACKS = ["compress"]
SPACE = {
    "bits": {"int": [2, 8], "default": 4, "goal": "bits"},
    "examples": 32,
    "unit": {"choice": ["matrix", "block", "blocks"], "tuned": False},
    "rank": 0,
    "iterations": {"int": [10, 60], "default": 40},
    "batch": 8,
    "rate": {"log": [1e-3, 1e-1], "default": 5e-2},
    "regular": 1e-2,
}
VARIANTS = {"brecq": {"unit": "block"}, "cbq": {"unit": "blocks", "rank": 5}}
SKIPS = {
    "descends": "what adapt() rounds stays as it is: a step does nothing",
    "passes": "a step does nothing: it makes no pass",
}


class Rounding:
    """The trained rounding of one matrix."""

    def __init__(self, weight, hp):
        self.step, self.low = rtn.grid(weight, hp.bits)
        self.top = 2**hp.bits - 1
        place = (weight - self.low) / self.step
        self.floor = place.floor()
        rest = ((place - self.floor + 0.1) / 1.2).clamp(1e-6, 1 - 1e-6)
        self.first = (rest / (1 - rest)).log()
        if hp.rank:
            left = weight.new_zeros(len(weight), hp.rank)
            self.params = [left, weight.new_empty(hp.rank, weight.shape[1]).normal_()]
        else:
            self.params = [torch.zeros_like(weight)]
        for p in self.params:
            p.requires_grad_(True)

    def up(self):
        """Return h."""
        v = self.params[0] @ self.params[1] if len(self.params) > 1 else self.params[0]
        return (1.2 * (self.first + v).sigmoid() - 0.1).clamp(0, 1)

    def dense(self, h):
        return self.low + self.step * (self.floor + h).clamp(0, self.top)

    def rounded(self):
        """Return the matrix with h of 0 or 1."""
        return self.dense((self.up() >= 0.5).to(self.step))

    def penalty(self, beta):
        return (1 - (2 * self.up() - 1).abs().pow(beta)).sum()


def adapt(model, task, hp):
    def penalty(rounding, t):
        if t < 0.2:
            return 0.0
        return hp.regular * rounding.penalty(20 - 18 * (t - 0.2) / 0.8)

    model.requires_grad_(False)
    _reconstruction.fit(model, task, hp, lambda weight: Rounding(weight, hp), penalty)
    model.requires_grad_(True)


class Algorithm(rtn.Algorithm):
    pass
