"""SNIP: prunes at once by what the loss would change if a connection were removed.

Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", arXiv 1810.02340.

    s = |g ⊙ w| / Σ|g ⊙ w| on one batch; the largest of all matrices together stay

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: it scores trained weights, the paper those at initialisation.
"""

from harness import surgery
from submissions.sparse import magnitude, random_mask

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {**random_mask.SPACE, "batches": 4}


def gradients(task, batches):
    """Mean gradient of the hidden matrices over some batches."""
    for i in range(batches):
        task.forward_backward(task.next_batch(), accumulate=i > 0)
    return [w.grad / batches for w in surgery.weights(task.model)]


def adapt(model, task, hp):
    grads = gradients(task, hp.batches)
    scores = [(g * w.detach()).abs() for g, w in zip(grads, surgery.weights(model))]
    magnitude.prune(task, scores, hp, "global")
