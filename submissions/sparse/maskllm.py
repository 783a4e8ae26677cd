"""MaskLLM: the weights stay, and the choice among the six 2:4 patterns of each four is trained.

Fang et al., "MaskLLM: Learnable Semi-Structured Sparsity for Large Language Models",
arXiv 2409.17481.

    W' = W ⊙ Σ_k softmax((κ·ℓ + Gumbel noise)/τ)_k·pattern_k, six logits ℓ for four weights of a row
    κ rises from 100 to 500 and τ falls from 4 to 0.05, both linear in the horizon
    ℓ at the start: N(0, 0.01²) + 0.03·(overlap of the pattern with the prior's - 1)
    what is handed over has the pattern with the largest logit

State: AdamW's for the logits, 1.5 words per weight.
Departures from the paper: the prior is by magnitude; no term of the loss keeps the masked weights
large.
"""

from itertools import combinations

import torch
from torch import nn

from harness import surgery
from harness.errors import UserError

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {"base_lr": {"log": [3e-4, 3e-2]}, "base_wd": 0.0}
PATTERNS = [[float(i in kept) for i in range(4)] for kept in combinations(range(4), 2)]
DEVIATION, PRIOR = 0.01, 3.0


class Chosen(surgery.Adapted):
    def __init__(self, linear, progress):
        super().__init__(linear)
        self.progress = progress
        if self.weight.shape[1] % 4:
            raise UserError(f"maskllm takes inputs in fours; a matrix has {self.weight.shape[1]}")
        self.register_buffer("patterns", self.weight.new_tensor(PATTERNS))
        prior = surgery.pattern(self.weight.detach().abs(), 2, 4).to(self.weight).view(-1, 4)
        logits = DEVIATION * torch.randn(len(prior), 6).to(self.weight)
        logits += PRIOR * DEVIATION * (prior @ self.patterns.T - 1)
        self.logits = nn.Parameter(logits)

    def dense(self):
        if torch.is_grad_enabled():
            t = self.progress()
            noise = -torch.empty_like(self.logits).exponential_().log()
            shares = (((100 + 400 * t) * self.logits + noise) / (4 - 3.95 * t)).softmax(1)
            mask = shares @ self.patterns
        else:
            mask = self.patterns[self.logits.argmax(1)]
        return self.weight * mask.view_as(self.weight)


def adapt(model, task, hp):
    model.requires_grad_(False)
    surgery.replace(model, lambda linear: Chosen(linear, lambda: task.progress))
