"""Remove heads and neurons by the first-order change of the loss without them, train the rest.

Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv 1906.10771; Ma et al.,
"LLM-Pruner", arXiv 2305.11627.

    a unit's weights: rows of qkv and columns of project of a head; row of up, column of down of a
    neuron; biases with their rows
    form "vector": I = mean over batches of (Σ w·g)²;  "element": I = Σ |w·ḡ|, ḡ the mean gradient
    scope "global": one ranking of all units;  "block": the same share of every block's heads and
    of its neurons

State: masks of the blocks' weights; AdamW's two words per parameter.
Departures from the paper: one shot; the paper of "vector" removes units in rounds. That of
"element" spares the first and the last blocks and trains low-rank adapters; here AdamW trains all.
"""

from harness import structure
from submissions.sparse import flap

BASE = "adamw"
TRACKS = ["compress"]
PASSES = {"forward_backward": 1.03}  # the batches that units are ranked by included
SPACE = {
    **flap.SPACE,
    "form": {"choice": ["vector", "element"], "tuned": False},
    "scope": {"choice": ["global", "block"]},
    "batches": {"int": [1, 8], "default": 4},
}
VARIANTS = {"llm_pruner": {"form": "element", "scope": "block"}}


def summed(block, terms):
    """Return the sums of the block's values over each head and each neuron.

    Args:
        terms: a function of a parameter; its values, of the parameter's shape.
    """
    qkv, up = (terms(m.weight).sum(1) + terms(m.bias) for m in (block.qkv, block.up))
    columns = terms(block.project.weight).sum(0)
    heads = qkv.view(3, block.heads, -1).sum((0, 2)) + columns.view(block.heads, -1).sum(1)
    return heads, up + terms(block.down.weight).sum(0)


def importances(task, hp):
    """Return the importance of heads and neurons, a pair of tensors a block."""
    blocks, scores = structure.blocks(task.model), []
    element = hp.form == "element"
    for i in range(hp.batches):
        task.forward_backward(task.next_batch(), accumulate=element and i > 0)
        if not element:
            found = [summed(b, lambda p: p.detach() * p.grad) for b in blocks]
            scores.append([[part.square() for part in pair] for pair in found])
    if element:
        scores = [[summed(b, lambda p: (p.detach() * p.grad / hp.batches).abs()) for b in blocks]]
    return [[sum(parts) / len(scores) for parts in zip(*pairs)] for pairs in zip(*scores)]


def ranked(scores):
    """Return each score's place among its own, in (0, 1]."""
    return (scores.argsort().argsort() + 1) / len(scores)


def adapt(model, task, hp):
    scores = importances(task, hp)
    if hp.scope == "block":
        scores = [[ranked(part) for part in pair] for pair in scores]
    flap.remove(task, hp, scores)
