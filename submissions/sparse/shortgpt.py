"""ShortGPT: remove the blocks that change their input least, train the rest.

Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect",
arXiv 2403.03853.

    influence of a block: mean over tokens of 1 - cos(input, output);  the lowest go, all at once

State: masks of the removed blocks; AdamW's two words per parameter.
Departures from the paper: AdamW trains what is left, which the paper only suggests. Blocks are
removed until the goal's share holds, so their number is not a hyperparameter.
"""

import torch
import torch.nn.functional as F

from harness import structure
from submissions.sparse import flap

BASE = "adamw"
TRACKS = ["compress"]
SPACE = flap.SPACE


@torch.no_grad()
def influences(model, x):
    """Return the influence of each block, [blocks]."""
    found = []

    def hook(module, args, y):
        found.append((1 - F.cosine_similarity(args[0], y, dim=-1)).mean())

    hooks = [block.register_forward_hook(hook) for block in structure.blocks(model)]
    model(x)
    for each in hooks:
        each.remove()
    return torch.stack(found)


def adapt(model, task, hp):
    x = task.calibration(hp.examples)
    kept = structure.fitting_blocks(model, x, influences(model, x), *flap.shares(hp))
    for block, stays in zip(structure.blocks(model), kept.tolist()):
        if not stays:
            structure.remove(task.masks, block)
