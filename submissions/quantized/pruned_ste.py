"""Prune the smallest weights, then train the rest through rounding to few bits; a joint baseline.

    masks: the largest |w| of all matrices stay (magnitude);  W' = s·round(W/s) by row (int8_ste)
    zero is a point of the symmetric grid, so masked weights stay zero

State: masks of the hidden matrices; AdamW's two words per parameter, of the unrounded weights.
Departures from the paper: there is no paper; both parts are those of magnitude and int8_ste.
"""

from harness import surgery
from submissions.quantized import int8_ste
from submissions.sparse import magnitude

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    **int8_ste.SPACE,
    "sparsity": {"linear": [0.0, 0.99], "default": 0.5, "goal": "sparsity"},
}


def adapt(model, task, hp):
    scores = [w.detach().abs() for w in surgery.weights(model)]
    masks = magnitude.kept(scores, hp.sparsity)
    int8_ste.adapt(model, task, hp)
    for weight, mask in zip(surgery.weights(model), masks):
        task.masks.set(weight, mask)
