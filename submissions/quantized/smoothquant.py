"""SmoothQuant: move the range of the inputs into the weights, and round those; then train.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models", arXiv 2211.10438.

    s_j = max|X_j|^α/max|W_j|^(1-α) for the inputs of every map behind a norm
    norm ← norm/s;  W_j ← W_j·s_j: the same function;  then rows of W on symmetric grids of b bits

State: AdamW's two words per parameter, of the unrounded weights.
Departures from the paper: after the scaling the weights train through their rounding (int8_ste),
where the paper stops; inputs are rounded by the referee alone.
"""

import torch

from harness import structure, surgery
from submissions.quantized import int8_ste

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {**int8_ste.SPACE, "alpha": {"linear": [0.3, 0.8], "default": 0.5}, "examples": 32}
LEAST = 1e-5


def scale(weight, x, alpha):
    """Return s of each input, [in]."""
    w = weight.detach().abs().amax(0).clamp(min=LEAST)
    return (x.abs().amax(0).clamp(min=LEAST).pow(alpha) / w.pow(1 - alpha)).clamp(min=LEAST)


@torch.no_grad()
def adapt(model, task, hp):
    norms = {reader: norm for norm, reader in structure.readers(model)}
    for module, x in surgery.calibrated(model, task.calibration(hp.examples)):
        if module in norms:
            structure.scale_inputs(norms[module], module, scale(module.weight, x, hp.alpha))
    int8_ste.adapt(model, task, hp)
