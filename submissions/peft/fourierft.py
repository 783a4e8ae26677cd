"""FourierFT: a few trained Fourier coefficients of each matrix's change.

Gao et al., "Parameter-Efficient Fine-Tuning with Discrete Fourier Transform", arXiv 2405.03003.

    W' = W + s·Re(ifft2(F)),  F [out, in] is zero but at n random places, where it is c
    matrices of one shape share the places

State: AdamW's for c: n scalars a matrix.
Departures from the paper: c starts at zero; the paper draws it from N(0, 1), which at its sizes is
a change near zero and at the sizes here is not. s is multiplied by out·in/10⁶, because ifft2
divides by out·in.
"""

import torch
from torch import nn

from harness import surgery
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-3, 1e-1]},
    # n, at most.
    "count": {"int": [8, 1024], "default": 128},
    # Largest share of all parameters that may train: an upper bound on n.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    # s
    "scale": {"log": [15.0, 15000.0], "default": 300.0},
}


class FourierFT(surgery.Adapted):
    def __init__(self, linear, places, scale):
        super().__init__(linear)
        self.scale = scale * self.weight.numel() / 1e6
        self.register_buffer("places", places.to(self.weight.device))
        self.c = nn.Parameter(self.weight.new_zeros(len(places)))

    def dense(self):
        spectrum = torch.zeros_like(self.weight).flatten().index_add(0, self.places, self.c)
        return self.weight + self.scale * torch.fft.ifft2(spectrum.view_as(self.weight)).real


def adapt(model, task, hp):
    def size(out, inputs, count):
        return min(count, out * inputs)

    surgery.freeze(model)
    count = surgery.fitting(model, hp.count, hp.share, size)
    shapes = sorted({tuple(w.shape) for w in surgery.weights(model)})
    places = {s: torch.randperm(s[0] * s[1], generator=task.rng)[:count] for s in shapes}
    surgery.replace(model, lambda m: FourierFT(m, places[tuple(m.weight.shape)], hp.scale))
