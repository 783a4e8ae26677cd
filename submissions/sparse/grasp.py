"""GraSP: prunes the weights whose removal leaves the largest gradient norm.

Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow",
arXiv 2002.07376.

    s = -w ⊙ Hg on one batch, g its gradient and H its Hessian
    keep the smallest s, in one ranking over all matrices

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: the scores are those of trained weights; no temperature on the logits; g
and Hg come from the same batch.
"""

from harness import surgery
from submissions.sparse import magnitude, random_mask

BASE = "adamw"
TRACKS = ["compress"]
PASSES = {"forward_backward": 1, "hvp": 0.004}
SPACE = random_mask.SPACE


def adapt(model, task, hp):
    batch = task.next_batch()
    task.forward_backward(batch)
    product = task.hvp(batch, [p.grad for p in task.params])
    of = {id(p): h for p, h in zip(task.params, product)}
    scores = [w.detach() * of[id(w)] for w in surgery.weights(model)]
    magnitude.prune(task, scores, hp, "global")
