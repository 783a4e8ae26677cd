"""One-shot magnitude pruning: remove the smallest weights, train the rest.

Han et al., arXiv 1506.02626; scopes: See et al., "Compression of Neural Machine Translation Models
via Pruning", arXiv 1606.09274; two_four whatever the goal is: ASP, Mishra et al., "Accelerating
Sparse Deep Neural Networks", arXiv 2104.08378.

    prune w where |w| is smallest
    scope "global": one ranking over all matrices (class-blind);  "layer": the same share of every
    matrix (class-uniform);  "row": the same share of every row;  "distribution": a threshold of λ
    standard deviations of each matrix;  two_four: two of any four consecutive inputs

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: none; ASP has no permutation of inputs. A share s of n weights is ⌈s·n⌉
weights; position breaks ties.
"""

import torch

from harness import surgery

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    "base_lr": {"log": [3e-4, 1e-2]},
    "base_wd": 0.0,
    "base_warmup": 0.05,
    "sparsity": {"linear": [0.0, 0.99], "default": 0.8, "goal": "sparsity"},
    "two_four": {"choice": [False, True], "goal": "two_four"},
    "scope": {"choice": ["global", "layer", "row", "distribution"]},
}
VARIANTS = {
    "class_uniform": {"scope": "layer"},
    "class_distribution": {"scope": "distribution"},
    "asp": {"two_four": True},
}


def kept(scores, sparsity, scope="global", two_four=False):
    """Return masks that keep (True) the largest scores; `scores`: [out, in] for each matrix."""
    if two_four:
        return [surgery.pattern(s, 2, 4) for s in scores]
    if scope == "row":
        return [top(s, s.shape[1] - pruned(s.shape[1], sparsity)) for s in scores]
    if scope == "layer":
        flat = [s.reshape(1, -1) for s in scores]
    else:
        flat = [torch.cat([s.flatten() for s in scores])[None]]
    masks = torch.cat([top(f, f.shape[1] - pruned(f.shape[1], sparsity))[0] for f in flat])
    parts = masks.split([s.numel() for s in scores])
    return [part.view_as(s) for part, s in zip(parts, scores)]


def pruned(count, sparsity):
    """Return ⌈sparsity·count⌉, unaffected by the rounding of the product."""
    return -int(-round(sparsity * count, 6) // 1)


def top(values, count):
    """Return the mask of the `count` largest values of each row; of equal values, the first."""
    order = values.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, order, True)


def prune(task, scores, hp, scope):
    """Set the masks of the task's hidden matrices by their scores."""
    found = surgery.weights(task.model)
    for weight, mask in zip(found, kept(scores, hp.sparsity, scope, hp.two_four), strict=True):
        task.masks.set(weight, mask)


def adapt(model, task, hp):
    found = [w.detach() for w in surgery.weights(model)]
    scale = [w.std() if hp.scope == "distribution" else 1.0 for w in found]
    prune(task, [w.abs() / s for w, s in zip(found, scale)], hp, hp.scope)
