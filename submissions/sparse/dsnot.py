"""DSnoT: after Wanda, each row exchanges pruned and kept weights until its mean output is right.

Zhang et al., "Dynamic Sparse No Training: Training-Free Fine-tuning for Sparse LLMs",
arXiv 2310.08915.

    E = Σ over a row's pruned weights of w_j·mean(x_j), the expected error of its output
    up to `cycles` times, while |E| > `small`: take back the pruned weight with the sign of E and
    the largest |w_j·mean(x_j)|/var(x_j); prune the kept one with the opposite effect and the
    smallest Wanda score; stop when E changes its sign

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: `small` is a share of the row's output deviation in place of 0.1. AdamW
trains the weights that stay.
"""

import torch

from harness import surgery
from submissions.sparse import magnitude, wanda

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    **wanda.SPACE,
    "two_four": False,
    "cycles": {"int": [0, 100], "default": 50},
    "small": {"log": [1e-3, 1.0], "default": 0.1},
}


def exchanged(weight, x, mask, cycles, small):
    """Return the mask [out, in] after the exchanges; x: inputs [tokens, in]."""
    mean, rows = x.mean(0), torch.arange(len(weight), device=weight.device)
    effect, score = weight * mean, wanda.score(weight, x)
    gain = effect.abs() / x.var(0).clamp(min=torch.finfo(x.dtype).tiny)
    limit = small * (x @ weight.T).std(0)
    mask, error = mask.clone(), (effect * ~mask).sum(1)
    live = error.abs() > limit
    for _ in range(cycles):
        sign = error.sign()[:, None]
        # What is taken back leaves the error; what is pruned joins it.
        back = torch.where(~mask & (effect * sign > 0), gain, -torch.inf)
        out = torch.where(mask & (effect * sign < 0), score, torch.inf)
        (best, taken), (least, dropped) = back.max(1), out.min(1)
        live = live & best.isfinite() & least.isfinite()
        if not live.any():
            break
        new = error - effect[rows, taken] + effect[rows, dropped]
        mask[rows[live], taken[live]] = True
        mask[rows[live], dropped[live]] = False
        live = live & (new.sign() == error.sign()) & (new.abs() > limit)
        error = torch.where(live, new, error)
    return mask


def adapt(model, task, hp):
    for module, x in surgery.calibrated(model, task.calibration(hp.examples)):
        weight = module.weight.detach()
        (mask,) = magnitude.kept([wanda.score(weight, x)], hp.sparsity, "row")
        task.masks.set(module.weight, exchanged(weight, x, mask, hp.cycles, hp.small))
