"""FLAP: remove heads and neurons whose output varies least, and keep its mean in the bias.

An et al., "Fluctuation-based Adaptive Structured Pruning for Large Language Models",
arXiv 2312.11983.

    score of an input channel j of project and of down: var(x_j)·Σ_a W_aj² over calibration tokens
    scores are standardised in each matrix; then a head's is the mean of its channels'; one ranking
    bias ← bias + Σ_j W_j·mean(x_j) over the channels that go

State: masks of the blocks' weights; AdamW's two words per parameter.
Departures from the paper: AdamW trains what is left, where the paper stops; a unit costs its own
number of parameters or operations, where the paper has a fixed ratio of heads to neurons. Where a
goal bounds both, flops decides.
"""

import torch

from harness import structure, surgery

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    "base_lr": {"log": [3e-4, 1e-2]},
    "base_wd": 0.0,
    "base_warmup": 0.05,
    "size": {"linear": [0.05, 1.0], "default": 0.75, "goal": "size"},
    "flops": {"linear": [0.05, 1.0], "default": 1.0, "goal": "flops"},
    "examples": 32,
}


def shares(hp):
    """Return the bounds on size and flops that hold: flops, where it is below 1, else size."""
    return (hp.size, 1.0) if hp.flops == 1 else (1.0, hp.flops)


def remove(task, hp, scores):
    """Mask the units of the smallest scores, a pair of tensors a block, until the goal is met."""
    kinds = [list(kind) for kind in zip(*scores)]
    kept = structure.fitting(task.model, task.calibration(1), *kinds, *shares(hp))
    for block, pair in zip(structure.blocks(task.model), kept):
        structure.keep(task.masks, block, *pair)


def standardised(scores):
    return (scores - scores.mean()) / scores.std().clamp(min=torch.finfo(scores.dtype).tiny)


def fluctuation(weight, x):
    """Return the score of each input channel, [in], of the inputs x [tokens, in]."""
    return x.var(0) * weight.detach().square().sum(0)


@torch.no_grad()
def adapt(model, task, hp):
    blocks = structure.blocks(model)
    inputs = dict(surgery.calibrated(model, task.calibration(hp.examples)))
    scores = []
    for block in blocks:
        maps = block.project, block.down
        channels, neurons = (standardised(fluctuation(m.weight, inputs[m])) for m in maps)
        scores.append([channels.view(block.heads, -1).mean(1), neurons])
    before = [[m.weight.clone() for m in (b.project, b.down)] for b in blocks]
    remove(task, hp, scores)
    for block, weights in zip(blocks, before):
        for module, old in zip((block.project, block.down), weights):
            module.bias.add_((old - module.weight) @ inputs[module].mean(0))
