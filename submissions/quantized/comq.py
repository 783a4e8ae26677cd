"""COMQ: round the weights of one input after another, each to the best points given the rest.

Zhang et al., "COMQ: A Backpropagation-Free Algorithm for Post-Training Quantization",
arXiv 2403.07134.

    minimise ‖X(w - q)‖² over q on the row's grid, one coordinate at a time, G = XᵀX:
    q_j ← round(q_j + Σ_k G_jk(w_k - q_k)/G_jj);  from q = w, inputs in order of ‖X_j‖·‖w_j‖

State: none; nothing is trained.
Departures from the paper: the grids are those of round to nearest; all rows of a matrix have one
order, where the paper's greedy order may differ from row to row.
"""

import torch

from harness import surgery
from submissions.quantized import rtn

TRACKS = ["compress"]
SPACE = {
    "bits": {"int": [2, 8], "default": 4, "goal": "bits"},
    "examples": 32,
    "sweeps": {"int": [1, 5], "default": 4},
}
SKIPS = {
    "descends": "what adapt() rounds stays as it is: a step does nothing",
    "passes": "a step does nothing: it makes no pass",
}


def quantise(weight, x, bits, sweeps):
    """Return the matrix on its rows' grids, [out, in], given its inputs x [tokens, in]."""
    w, x = weight.detach().double(), x.double()
    step, low = (v.double() for v in rtn.grid(weight, bits))
    gram, q = x.T @ x, w.clone()
    # (w - q)G.
    error = torch.zeros_like(w)
    order = (gram.diagonal().sqrt() * w.norm(dim=0)).argsort(descending=True)
    for _ in range(sweeps):
        for j in order.tolist():
            if gram[j, j] <= 0:
                q[:, j] = rtn.rounded(w[:, j : j + 1], step, low, bits)[:, 0]
                continue
            best = q[:, j] + error[:, j] / gram[j, j]
            new = rtn.rounded(best[:, None], step, low, bits)[:, 0]
            error += (q[:, j] - new)[:, None] * gram[j]
            q[:, j] = new
    return q.to(weight.dtype)


@torch.no_grad()
def adapt(model, task, hp):
    for module, x in surgery.calibrated(model, task.calibration(hp.examples)):
        module.weight.copy_(quantise(module.weight, x, hp.bits, hp.sweeps))


class Algorithm(rtn.Algorithm):
    pass
