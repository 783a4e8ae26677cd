"""Round to nearest: each weight to the nearest point of its row's grid; null of quantisation.

    δ = (max - min)/(2^b - 1) of a row;  q = clamp(round((w - min)/δ), 0, 2^b - 1);  w ← min + δ·q

State: none; nothing is trained.
Departures from the paper: there is no paper. Grids are asymmetric, one per row of hidden matrices.
"""

import torch

from harness import surgery

TRACKS = ["compress"]
SPACE = {"bits": {"int": [2, 8], "default": 4, "goal": "bits"}}
SKIPS = {
    "descends": "what adapt() rounds stays as it is: a step does nothing",
    "passes": "a step does nothing: it makes no pass",
}


def grid(weight, bits):
    """Return the grid's step and offset for each row, [out, 1]."""
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    step = ((high - low) / (2**bits - 1)).clamp(min=torch.finfo(weight.dtype).tiny)
    return step, low


def rounded(values, step, low, bits):
    """Return the nearest points of the grid."""
    return low + step * ((values - low) / step).round().clamp(0, 2**bits - 1)


@torch.no_grad()
def adapt(model, task, hp):
    for module in surgery.matrices(model).values():
        module.weight.copy_(rounded(module.weight, *grid(module.weight, hp.bits), hp.bits))


class Algorithm:
    """A method that does nothing more once the model is adapted."""

    def __init__(self, task, hp):
        pass

    def step(self):
        return None

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
