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
from torch.func import functional_call

from harness import ops, surgery
from harness.errors import UserError
from submissions.quantized import rtn

TRACKS = ["compress"]
SPACE = {
    "bits": {"int": [2, 8], "default": 4, "goal": "bits"},
    "examples": 32,
    "unit": {"choice": ["matrix", "block", "blocks"]},
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


@torch.no_grad()
def inputs_of(model, modules, x):
    """Return what each module is called with: (arguments, keywords), when the model sees x."""
    seen = {}
    hooks = [
        m.register_forward_pre_hook(lambda m, a, k: seen.update({m: (a, k)}), with_kwargs=True)
        for m in modules
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return [seen[m] for m in modules]


def chained(unit, called, values, index=None):
    """Return the output of modules one after the other, with other matrices in place of theirs.

    Args:
        called: (arguments, keywords) of the first; the others are called with one argument.
        values: {matrix: its value}; index: of the examples, all by default.
    """
    (x, *rest), keywords = called
    x = x if index is None else x[index]
    for module in unit:
        own = {
            f"{n}.weight".lstrip("."): values[m] for n, m in module.named_modules() if m in values
        }
        x = functional_call(module, own, (x, *rest), keywords)
        rest = []
    return x


def units(model, kind):
    """Return the units as lists of modules that follow each other."""
    if kind == "matrix":
        return [[m] for m in surgery.matrices(model).values()]
    blocks = list(getattr(model, "blocks", []))
    if not blocks:
        raise UserError(f"unit={kind!r} needs a model with blocks", do="submission.unit=matrix")
    return [blocks[i : i + 2] for i in range(max(1, len(blocks) - 1))] if kind == "blocks" else [
        [b] for b in blocks
    ]  # fmt: skip


def fit(model, task, hp, make, penalty):
    """Round unit after unit; `make(matrix)` returns the trained rounding of a matrix.

    penalty(rounding, progress) is added to the loss for each matrix of the unit.
    """
    x, parts = task.calibration(hp.examples), units(model, hp.unit)
    hidden, roundings = set(surgery.matrices(model).values()), {}
    firsts = [unit[0] for unit in parts]
    with torch.no_grad():
        aims = [chained(u, c, {}) for u, c in zip(parts, inputs_of(model, firsts, x))]
    for unit, aim in zip(parts, aims):
        inside = [m for module in unit for m in module.modules() if m in hidden]
        for m in inside:
            roundings.setdefault(m, make(m.weight.detach().clone()))
        called = inputs_of(model, [unit[0]], x)[0]
        optimise(unit, called, aim, {m: roundings[m] for m in inside}, task, hp, penalty)
        for m in inside:
            m.weight.data.copy_(roundings[m].rounded().detach())


@torch.enable_grad()
def optimise(unit, called, aim, roundings, task, hp, penalty):
    params = [p for r in roundings.values() for p in r.params]
    m, v = ops.zeros(params), ops.zeros(params)
    for i in range(hp.iterations):
        index = torch.randperm(len(aim), generator=task.rng)[: hp.batch].to(aim.device)
        values = {k: r.dense(r.up()) for k, r in roundings.items()}
        gap = (chained(unit, called, values, index) - aim[index]).square()
        loss = gap.sum(-1).mean()
        for r in roundings.values():
            loss = loss + penalty(r, i / hp.iterations)
        grads = torch.autograd.grad(loss, params)
        with torch.no_grad():
            ops.adam_(params, grads, m, v, i + 1, hp.rate, (0.9, 0.999), 1e-8)


def adapt(model, task, hp):
    def penalty(rounding, t):
        if t < 0.2:
            return 0.0
        return hp.regular * rounding.penalty(20 - 18 * (t - 0.2) / 0.8)

    model.requires_grad_(False)
    fit(model, task, hp, lambda weight: Rounding(weight, hp), penalty)
    model.requires_grad_(True)


class Algorithm(rtn.Algorithm):
    pass
