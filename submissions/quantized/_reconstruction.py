"""What methods share that change a model unit after unit, by the outputs of its dense units.

Nagel et al., arXiv 2004.10568, for matrices; Li et al., arXiv 2102.05426, for blocks.
"""

import torch
from torch.func import functional_call

from harness import ops, surgery
from harness.errors import UserError


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
    """Round unit after unit, each so that its outputs are nearest to those of the dense model.

    Args:
        make: returns the trained rounding of a matrix: `params` to train, `up()`, `dense(up)` and
            the matrix at the end, `rounded()`.
        penalty: of (rounding, progress), is added to the loss for each matrix of the unit.
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
