"""DoReFa: train weights of few bits through a tanh, and inputs of few bits, as if not rounded.

Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth
Gradients", arXiv 1606.06160.

    M = max |tanh w| of a matrix;  v = tanh w/(2M) + 1/2
    W' = M·(2·round((2^b - 1)·v)/(2^b - 1) - 1)
    inputs are rounded token by token as the referee rounds them;  both gradients pass through
    the rounding, that of W' also through the tanh, M being constant

State: AdamW's two words per parameter, of the unrounded weights.
Departures from the paper: W' is scaled by M, since training starts from trained weights and no norm
follows them; inputs have the referee's grid in place of [0, 1]; gradients are not rounded.
"""

import torch

from harness import activations, ops, surgery

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    "base_lr": {"log": [1e-4, 3e-3]},
    "base_wd": 0.0,
    "bits": {"int": [1, 8], "default": 4, "goal": "bits"},
    "activation_bits": {"int": [2, 16], "default": 8, "goal": "activation_bits"},
}


class Rounded(surgery.Adapted):
    def __init__(self, linear, bits):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        self.levels = 2**bits - 1

    def dense(self):
        t = self.weight.tanh()
        largest = t.detach().abs().max().clamp(min=torch.finfo(t.dtype).tiny)
        place = (self.levels * (t.detach() / (2 * largest) + 0.5)).round() / self.levels
        return ops.straight_through(t, largest * (2 * place - 1))


def adapt(model, task, hp):
    surgery.replace(model, lambda linear: Rounded(linear, hp.bits))
    activations.round_inputs(model, hp.activation_bits)
