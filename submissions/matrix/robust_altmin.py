"""Robust alternating minimisation: each regression is solved approximately, by a sketch.

Gu, Song, Yin, Zhang, "Low Rank Matrix Completion via Robust Alternating Minimization in Nearly
Linear Time", arXiv 2302.11068.

    for each row i of the factor: S·(seen rows of the partner) = Q·T, S a CountSketch of `rows` rows
    l_i ← l_i − T⁻¹T⁻ᵀ·∇_i f, `inner` times;  then the other factor;  a step is one factor's

The sketched QR makes the regression well conditioned, so that a few gradient steps solve it.

State: none.
Departures from the paper: one sketch serves all rows; the start is the workload's. With few columns
exact solutions are cheap, so that no gain over alternating_minimisation is expected. A sketch needs
about ten rows a column: at 32 rows, the rule of 4·k·log k for k = 5, the steps diverge.
"""

import torch

from harness.errors import UserError
from submissions.matrix import _operator

PASSES = {"forward_backward": 4}
SPACE = {"rows": {"choice": [128, 64, 256]}, "inner": 4}


def sketched(seen, partner, rows, generator):
    """Return T of each row's sketched partner, [n, k, k]: QR of S·diag(seen_i)·P."""
    n, k = partner.shape
    where = torch.randint(rows, (n,), generator=generator).to(partner.device)
    sign = 1.0 - 2.0 * torch.randint(2, (n,), generator=generator).to(partner)
    spread = torch.zeros(n, rows, k, dtype=partner.dtype, device=partner.device)
    spread[torch.arange(n), where] = sign[:, None] * partner
    return torch.linalg.qr((seen @ spread.flatten(1)).view(-1, rows, k)).R


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        _operator.pair(task)

    def step(self):
        task, batch = self.task, self.task.next_batch()
        if "seen" not in batch:
            raise UserError(
                "robust_altmin needs measurements that are entries", "matrix_completion"
            )
        factor, partner = task.params[task.step % 2], task.params[1 - task.step % 2]
        seen = batch["seen"].T if task.step % 2 else batch["seen"]
        root = (2 * batch["weight"][0] / len(batch["weight"])) ** 0.5
        upper = sketched(seen * root, partner.data, self.hp.rows, task.rng)
        upper.diagonal(dim1=1, dim2=2).add_(1e-12)
        first = None
        for _ in range(self.hp.inner):
            loss = task.forward_backward(batch)
            first = loss if first is None else first
            g = torch.linalg.solve_triangular(upper.mT, factor.grad[..., None], upper=False)
            factor.data.sub_(torch.linalg.solve_triangular(upper, g, upper=True)[..., 0])
        return first

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
