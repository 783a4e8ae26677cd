"""SynFlow: data-free pruning, in rounds, of weights that carry least of an all-ones input.

Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow",
arXiv 2006.05467.

    R = 1ᵀ·f(1) with every weight replaced by its absolute value;  s = w ⊙ ∂R/∂w
    round k of n keeps the (1 - sparsity)^(k/n) of all weights with the largest s

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: for the scores, norms become the identity and embeddings all ones. Then
all positions are alike and attention averages. The activation stays; it is linear far above zero.
"""

import copy

import torch
from torch import nn

from harness import surgery
from submissions.sparse import magnitude, random_mask

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {**random_mask.SPACE, "rounds": 20}


def flow(model):
    """Return a float64 copy with absolute weights, embeddings of ones, no biases and no norms."""
    twin = copy.deepcopy(model).double()
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.LayerNorm | nn.RMSNorm):
                setattr(module, name, nn.Identity())
        if isinstance(module, nn.Embedding):
            module.weight.data.fill_(1.0)
        elif isinstance(module, nn.Linear):
            module.weight.data.abs_()
            if module.bias is not None:
                module.bias.data.zero_()
    return twin


def adapt(model, task, hp):
    twin, x = flow(model), task.calibration(1)
    # Tokens need no change: their embedding is all ones.
    if x.is_floating_point():
        x = torch.ones_like(x, dtype=torch.float64)
    found = surgery.weights(twin)
    dense = [w.detach().clone() for w in found]
    for k in range(1, hp.rounds + 1):
        twin.zero_grad()
        twin(x).sum().backward()
        scores = [(w * w.grad).detach() for w in found]
        share = 1 - (1 - hp.sparsity) ** (k / hp.rounds)
        for w, start, mask in zip(found, dense, magnitude.kept(scores, share)):
            w.data.copy_(start * mask)
    magnitude.prune(task, [s.float() for s in scores], hp, "global")
