"""BAdam: Adam on one block of parameters at a time, the others at rest.

Luo, Yu and Li, "BAdam: A Memory Efficient Full Parameter Optimization Method for Large Language
Models", arXiv 2404.02827, Algorithm 1.

    the parameters are split into at most `blocks` runs of tensors with about equal numbers of
    elements
    every `every` steps the next block of a random order is chosen, and its m, v and step start at 0
    AdamW on the chosen block;  each block comes once in a round

State: m and v of one block, as long as the largest; the order of blocks; the step.
Departures from the paper: blocks follow the order and size of tensors, where the paper takes the
model's transformer layers; `every` counts steps of AdamW. Gradients of all blocks are computed.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.first_order import adamw

SPACE = {
    **adamw.SPACE,
    "blocks": {"int": [2, 8], "default": 4},
    "every": {"choice": [20, 50, 10]},
}


def blocks_of(sizes, blocks):
    """Return the block of each tensor: consecutive runs with about equal numbers of elements.

    A tensor longer than a share would leave the next block empty, so that its turns would do
    nothing. Blocks are therefore counted from 0 without gaps.
    """
    total, seen, raw = max(1, sum(sizes)), 0, []
    for size in sizes:
        raw.append(min(blocks - 1, int(blocks * (seen + size / 2) / total)))
        seen += size
    used = sorted(set(raw))
    return [used.index(block) for block in raw]


def init(params, hp):
    block = blocks_of([p.numel() for p in params], hp.blocks)
    count = max(block) + 1
    filled, offset = [0] * count, []
    for p, b in zip(params, block, strict=True):
        offset.append(filled[b])
        filled[b] += p.numel()
    return {
        "m": params[0].new_zeros(max(filled)),
        "v": params[0].new_zeros(max(filled)),
        "block": [torch.tensor(b) for b in block],
        "offset": [torch.tensor(o) for o in offset],
        "order": torch.zeros(count, dtype=torch.int64),
        "step": 0,
    }


def update(params, grads, state, hp, progress):
    turn, inner = divmod(state["step"], hp.every)
    count = len(state["order"])
    state["step"] += 1
    if inner == 0:
        if turn % count == 0:
            state["order"].copy_(torch.randperm(count))
        state["m"].zero_()
        state["v"].zero_()
    chosen = int(state["order"][turn % count])
    members = [i for i, block in enumerate(state["block"]) if int(block) == chosen]
    views = []
    for i in members:
        place = slice(int(state["offset"][i]), int(state["offset"][i]) + params[i].numel())
        views.append([state[key][place].view(params[i].shape) for key in ("m", "v")])
    m, v = ([view[k] for view in views] for k in (0, 1))
    p, g = [params[i] for i in members], [grads[i] for i in members]
    lr, betas = hp.lr * warmup_cosine(progress, hp.warmup), (hp.beta1, hp.beta2)
    ops.adam_(p, g, m, v, inner + 1, lr, betas, hp.eps, hp.wd)
