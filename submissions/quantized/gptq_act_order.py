"""GPTQ with act-order: the columns whose inputs are largest are rounded first.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
arXiv 2210.17323; the order is an option of the authors' code.

    columns in the order of falling ‖x_j‖², the diagonal of H; then as GPTQ

State: none; nothing is trained.
Departures from the paper: those of gptq but the order: one grid for each row, found before the
sweep; float64; block after block of the model.
"""

import torch

from harness import surgery
from submissions.quantized import gptq, rtn

TRACKS = ["compress"]
SPACE = {**gptq.SPACE}
SKIPS = {
    "descends": "what adapt() rounds stays as it is: a step does nothing",
    "passes": "a step does nothing: it makes no pass",
}


@torch.no_grad()
def adapt(model, task, hp):
    for module, x in surgery.calibrated(model, task.calibration(hp.examples)):
        order = x.double().square().sum(0).argsort(descending=True, stable=True)
        found = gptq.quantise(module.weight[:, order], x[:, order], hp.bits, hp.damp)
        module.weight.copy_(found[:, order.argsort()])


class Algorithm(rtn.Algorithm):
    pass
