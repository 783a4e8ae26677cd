"""GPTQ: round column by column, and compensate the error in the later columns.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
arXiv 2210.17323.

    H = XᵀX + damp·mean(diag)·I over calibration tokens;  C upper Cholesky factor of H⁻¹
    per column j: q = nearest point of the row's grid;  W_{j:} ← W_{j:} - (w_j - q)/C_jj·C_{j,j:}

State: none; nothing is trained.
Departures from the paper: columns in their order; one grid for each row, as in round to nearest;
float64; block after block of the model, with inputs from the rounded earlier blocks.
"""

import torch

from harness import surgery
from submissions.quantized import rtn
from submissions.sparse import sparsegpt

TRACKS = ["compress"]
SPACE = {"bits": {"int": [2, 8], "default": 4, "goal": "bits"}, "examples": 32, "damp": 0.01}
SKIPS = {
    "descends": "what adapt() rounds stays as it is: a step does nothing",
    "passes": "a step does nothing: it makes no pass",
}


def quantise(weight, x, bits, damp):
    """Return the matrix on its rows' grids, [out, in], given its inputs x [tokens, in]."""
    step, low = (v.double() for v in rtn.grid(weight, bits))

    def plan(block, c):
        return lambda j, column: rtn.rounded(column[:, None], step, low, bits)[:, 0]

    return sparsegpt.sweep(weight, x, damp, weight.shape[1], plan)


@torch.no_grad()
def adapt(model, task, hp):
    for module, x in surgery.calibrated(model, task.calibration(hp.examples)):
        module.weight.copy_(quantise(module.weight, x, hp.bits, hp.damp))


class Algorithm(rtn.Algorithm):
    pass
