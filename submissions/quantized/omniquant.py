"""OmniQuant: the range of each row's grid is trained, block after block.

Shao et al., "OmniQuant: Omnidirectionally Calibrated Quantization for Large Language Models",
arXiv 2308.13137, learnable weight clipping.

    range of a row [σ(b_l)·min w, σ(b_u)·max w], b_l = b_u = 4 at the start
    δ = range/(2^b - 1), z = round(-low/δ);  W' = δ·(clip(round(W/δ) + z, 0, 2^b - 1) - z)
    minimise ‖output of a block - dense output‖² over b_l and b_u, straight through the rounding

State: none; nothing is trained after the rounding.
Departures from the paper: weight clipping alone, without the equivalent transformation, which is
for rounded activations. Adam without decay.
"""

import torch

from submissions.quantized import _reconstruction, rtn

TRACKS = ["compress"]
SPACE = {
    "bits": {"int": [2, 8], "default": 4, "goal": "bits"},
    "examples": 32,
    "unit": {"choice": ["block", "matrix"]},
    "iterations": {"int": [10, 60], "default": 40},
    "batch": 8,
    "rate": {"log": [1e-3, 1e-1], "default": 1e-2},
}
SKIPS = {
    "descends": "what adapt() rounds stays as it is: a step does nothing",
    "passes": "a step does nothing: it makes no pass",
}


def straight(values):
    """Return the values rounded, with the gradient of the values themselves."""
    return values + (values.round() - values).detach()


class Clipping:
    """The trained range of one matrix's rows."""

    def __init__(self, weight, bits):
        self.weight, self.top = weight, 2**bits - 1
        self.params = [weight.new_full((len(weight), 1), 4.0) for _ in range(2)]
        for p in self.params:
            p.requires_grad_(True)

    def up(self):
        """Return the step and the zero point of each row."""
        low, high = (p.sigmoid() for p in self.params)
        low = low * self.weight.amin(1, keepdim=True).clamp(max=0)
        high = high * self.weight.amax(1, keepdim=True).clamp(min=0)
        step = ((high - low) / self.top).clamp(min=torch.finfo(low.dtype).tiny)
        return step, straight(-low / step)

    def dense(self, grid):
        step, zero = grid
        return step * ((straight(self.weight / step) + zero).clamp(0, self.top) - zero)

    def rounded(self):
        return self.dense(self.up())


def adapt(model, task, hp):
    model.requires_grad_(False)
    _reconstruction.fit(model, task, hp, lambda w: Clipping(w, hp.bits), lambda rounding, t: 0.0)
    model.requires_grad_(True)


class Algorithm(rtn.Algorithm):
    pass
