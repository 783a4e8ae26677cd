"""SparseGPT: prune column by column, and compensate the error in the later columns.

Frantar, Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
arXiv 2301.00774.

    H = XᵀX + damp·mean(diag)·I over calibration tokens;  C upper Cholesky factor of H⁻¹
    per block of columns: prune the smallest w_ij²/C_jj² of the block;  per column j of it:
        e = (w_j - kept_j)/C_jj;  W_{j:} ← W_{j:} - e·C_{j,j:}
    block after block of the model, as in Wanda

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: AdamW trains the weights that stay; exactly ⌈s·n⌉ of a block's weights
are pruned (the authors' code prunes one more); float64.
"""

import torch

from harness import surgery
from submissions.sparse import magnitude, random_mask

BASE = "adamw"
TRACKS = ["compress"]
# `columns` is the number of columns in a block.
SPACE = {**random_mask.SPACE, "examples": 32, "damp": 0.01, "columns": 64}


def sweep(weight, x, damp, columns, plan):
    """Return the matrix with its columns replaced one by one, the later columns compensating.

    Args:
        weight: [out, in]; x: its inputs, [tokens, in].
        columns: how many columns `plan` gets at a time.
        plan: (block [out, columns], their C_jj) -> replace(j, column) -> new column.
    """
    w, x = weight.detach().double().clone(), x.double()
    h = x.T @ x
    h.diagonal().add_(damp * h.diagonal().mean() + 1e-12)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    c = torch.linalg.cholesky(inverse, upper=True)
    for first in range(0, w.shape[1], columns):
        last = min(first + columns, w.shape[1])
        replace = plan(w[:, first:last].clone(), c.diagonal()[first:last])
        for j in range(first, last):
            new = replace(j - first, w[:, j].clone())
            e = (w[:, j] - new) / c[j, j]
            w[:, j + 1 :] -= e[:, None] * c[j, j + 1 :]
            w[:, j] = new
    return w.to(weight.dtype)


def adapt(model, task, hp):
    columns = 4 if hp.two_four else hp.columns

    def plan(block, c):
        mask = magnitude.kept([(block / c).square()], hp.sparsity, "layer", hp.two_four)[0]
        return lambda j, column: column * mask[:, j]

    for module, x in surgery.calibrated(model, task.calibration(hp.examples)):
        new = sweep(module.weight, x, hp.damp, columns, plan)
        module.weight.data.copy_(new)
        task.masks.set(module.weight, new != 0)
