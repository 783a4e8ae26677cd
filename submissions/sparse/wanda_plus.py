"""Wanda++: Wanda's scores with gradients of each block, and a short repair of each pruned block.

Yang et al., "Wanda++: Pruning Large Language Models via Regional Gradients", arXiv 2503.04992.

    g = root mean square over calibration inputs of ∂‖block(x)‖₂/∂W
    score_ij = (α·g_ij + ‖X_j‖₂)·|W_ij|;  prune the smallest of every row
    `rounds` times: prune, then RMSprop on the block's weights that stay, on ‖block(x) - dense
    block(x)‖² of `batch` inputs;  block after block

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: the authors' code is not public; the rule is that of a later
implementation. g is of each example's output as a whole. AdamW trains the weights that stay.
"""

import torch

from harness import surgery
from harness.errors import UserError
from submissions.quantized import _reconstruction
from submissions.sparse import magnitude, wanda

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    **wanda.SPACE,
    # α
    "alpha": {"log": [1.0, 1e4], "default": 100.0},
    "rounds": {"int": [0, 8], "default": 3},
    "batch": 8,
    "rate": {"log": [1e-6, 1e-3], "default": 3e-5},
}


def regional(block, called, weights):
    """Return g of each matrix."""
    total = [torch.zeros_like(w) for w in weights]
    for i in range(len(called[0][0])):
        out = _reconstruction.chained([block], called, {}, slice(i, i + 1))
        grads = torch.autograd.grad(out.norm(), weights)
        total = [t + g.square() for t, g in zip(total, grads)]
    return [(t / len(called[0][0])).sqrt() for t in total]


def adapt(model, task, hp):
    x = task.calibration(hp.examples)
    blocks, hidden = list(getattr(model, "blocks", [])), set(surgery.matrices(model).values())
    if not blocks:
        raise UserError("wanda_plus repairs blocks; this model has none")
    for block in blocks:
        inside = [m for m in block.modules() if m in hidden]
        called = _reconstruction.inputs_of(model, [block], x)[0]
        with torch.no_grad():
            aim = _reconstruction.chained([block], called, {})
        weights = [m.weight for m in inside]
        with torch.enable_grad():
            slopes = regional(block, called, weights)
        norms = [
            a[0].flatten(0, -2).norm(dim=0) for a, _ in _reconstruction.inputs_of(model, inside, x)
        ]
        squares = [torch.zeros_like(w) for w in weights]
        for done in range(hp.rounds + 1):
            for m, g, norm in zip(inside, slopes, norms):
                scores = [(hp.alpha * g + norm) * m.weight.detach().abs()]
                masks = magnitude.kept(scores, hp.sparsity, "row", hp.two_four)
                task.masks.set(m.weight, masks[0])
            if done < hp.rounds:
                repair(task, block, called, aim, weights, squares, hp)
    model.zero_grad(set_to_none=True)


def repair(task, block, called, aim, weights, squares, hp):
    """Make a step of RMSprop on the weights that stay."""
    index = torch.randperm(len(aim), generator=task.rng)[: hp.batch].to(aim.device)
    with torch.enable_grad():
        gap = _reconstruction.chained([block], called, {}, index) - aim[index]
        grads = torch.autograd.grad(gap.square().mean(), weights)
    with torch.no_grad():
        for w, g, v in zip(weights, grads, squares):
            v.mul_(0.99).addcmul_(g, g, value=0.01)
            w.sub_(hp.rate * g / (v.sqrt() + 1e-8) * task.masks.of(w))
