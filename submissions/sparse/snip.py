"""SNIP: one-shot pruning by how much the loss would change without a connection.

Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", arXiv 1810.02340.

    s = |g ⊙ w| / Σ|g ⊙ w| on one batch; keep the largest s, in one ranking over all matrices

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: the scores are those of trained weights, not of initial ones.
"""

from harness import surgery
from submissions.sparse import magnitude, random_mask

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {**random_mask.SPACE, "batches": 4}


def gradients(task, batches):
    """Return the hidden matrices' mean gradient over some batches."""
    for i in range(batches):
        task.forward_backward(task.next_batch(), accumulate=i > 0)
    return [w.grad / batches for w in surgery.weights(task.model)]


def adapt(model, task, hp):
    grads = gradients(task, hp.batches)
    scores = [(g * w.detach()).abs() for g, w in zip(grads, surgery.weights(model))]
    magnitude.prune(task, scores, hp, "global")
