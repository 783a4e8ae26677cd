"""OWL: Wanda's scores, with fewer zeros in blocks that have more outliers.

Yin et al., "Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret Sauce for Pruning LLMs to
High Sparsity", arXiv 2310.05175.

    D_l = share of a block's Wanda scores above M times the mean of them all
    D is scaled to a range of 2λ;  sparsity of block l = s - (D_l - mean D), so that the mean is s

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: D comes from the dense model. Blocks weigh as many as they have weights
in the means, and where a block's sparsity would pass 1 it is 1 and the others have more, so that
the whole is s. AdamW trains the weights that stay.
"""

import torch

from harness import surgery
from harness.errors import UserError
from submissions.sparse import magnitude, wanda

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    **wanda.SPACE,
    "two_four": False,
    # M
    "outlier": {"linear": [3.0, 10.0], "default": 5.0},
    # λ
    "width": {"linear": [0.01, 0.2], "default": 0.08},
}


def shares(outliers, sizes, sparsity, width):
    """Return each block's share of zeros from its share of outliers; the whole has `sparsity`.

    Args:
        sizes: the number of each block's weights.
    """
    d, n = (torch.tensor(values, dtype=torch.float64) for values in (outliers, sizes))
    scaled = (d - d.min()) * 2 * width / (d.max() - d.min()).clamp(min=1e-12)
    low, high = 0.0, 1.0 + 2 * width  # the share of a block with the fewest outliers
    for _ in range(60):
        middle = (low + high) / 2
        less = float(((middle - scaled).clamp(0, 1) * n).sum()) < sparsity * float(n.sum())
        low, high = (middle, high) if less else (low, middle)
    return (high - scaled).clamp(0, 1).tolist()


def adapt(model, task, hp):
    x = task.calibration(hp.examples)
    blocks = [set(block.modules()) for block in getattr(model, "blocks", [])]
    if not blocks:
        raise UserError("owl compares blocks; this model has none")
    found = [[] for _ in blocks]
    for module, inputs in surgery.calibrated(model, x):
        for scores, block in zip(found, blocks):
            if module in block:
                scores.append(wanda.score(module.weight, inputs).flatten())
    found = [torch.cat(scores) for scores in found]
    above = [float((scores > hp.outlier * scores.mean()).float().mean()) for scores in found]
    each = shares(above, [len(scores) for scores in found], hp.sparsity, hp.width)
    for module, inputs in surgery.calibrated(model, x):
        share = next((s for s, b in zip(each, blocks) if module in b), hp.sparsity)
        scores = [wanda.score(module.weight, inputs)]
        task.masks.set(module.weight, magnitude.kept(scores, share, "row")[0])
