"""SPP: a pruned matrix is multiplied, entry by entry, by a trained low-cost matrix.

Lu et al., "SPP: Sparsity-Preserved Parameter-Efficient Fine-Tuning for Large Language Models",
arXiv 2405.16057.

    W' = W + s·W ⊙ (b·A*),  A [r, in] Kaiming-uniform, each of its rows repeated out/r times to A*;
    b [out, 1] = 0 scales the rows;  W pruned by magnitude, so W' has its zeros

State: AdamW's for A and b, and for biases and norms: r·in + out scalars a matrix.
Departures from the paper: r is the largest divisor of the outputs up to `rank`; biases and norms
train too, as in PERP; the pruning is by magnitude or by Wanda.
"""

from torch import nn

from harness import roles, surgery
from submissions.sparse import magnitude, wanda

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    "base_lr": {"log": [1e-3, 3e-2]},
    "base_wd": 0.0,
    "sparsity": {"linear": [0.0, 0.99], "default": 0.8, "goal": "sparsity"},
    "two_four": {"choice": [False, True], "goal": "two_four"},
    "pruned_by": {"choice": ["magnitude", "wanda"]},
    "scope": "global",
    "examples": 32,
    "rank": {"int": [1, 32], "default": 16},
    "scale": 2.0,
}


class SPP(surgery.Adapted):
    def __init__(self, linear, rank, scale):
        super().__init__(linear)
        (out, inputs), bound = self.weight.shape, self.weight.shape[1] ** -0.5
        rank, self.scale = max(r for r in range(1, rank + 1) if out % r == 0), scale
        self.A = nn.Parameter(self.weight.new_empty(rank, inputs).uniform_(-bound, bound))
        self.b = nn.Parameter(self.weight.new_zeros(out, 1))

    def dense(self):
        rows = self.A.repeat_interleave(len(self.b) // len(self.A), dim=0)
        return self.weight * (1 + self.scale * rows * self.b)


def adapt(model, task, hp):
    (wanda if hp.pruned_by == "wanda" else magnitude).adapt(model, task, hp)
    kinds = roles.of(model)
    for name, p in model.named_parameters():
        p.requires_grad_(kinds[name].kind in ("bias", "norm"))
    surgery.replace(model, lambda linear: SPP(linear, hp.rank, hp.scale))
