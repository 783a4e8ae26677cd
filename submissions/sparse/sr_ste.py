"""SR-STE: dense weights train through their own N:M mask; masked weights decay.

Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch",
arXiv 2102.04010; flow "linear": mask decay of Bambhaniya et al., arXiv 2402.04744.

    W' = W ⊙ m, m the N largest |w| of every M consecutive inputs;  ∂L/∂W ← ∂L/∂W' + λ(1 - m) ⊙ W
    flow "linear": λ = 0 and W' = W ⊙ (m + (1 - m)·max(0, 1 - t/cool)) at share t of the horizon

State: AdamW's for all parameters.
Departures from the paper: it starts from trained weights; AdamW in place of SGD; with flow "linear"
the straight-through gradient is not scaled by the mask's decay.
"""

import torch

from harness import surgery

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    "base_lr": {"log": [3e-4, 1e-2]},
    "base_wd": 0.0,
    "kept": 2,  # N
    "of": 4,  # M
    "decay": {"log": [2e-6, 2e-3], "default": 2e-4},  # λ
    "flow": {"choice": ["none", "linear"]},
    "cool": 0.5,
}
VARIANTS = {"sr_ste_1_4": {"kept": 1}}


class Refined(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, mask, decay, leak):
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return weight * (mask + (1 - mask) * leak)

    @staticmethod
    def backward(ctx, grad):
        weight, mask = ctx.saved_tensors
        return grad + ctx.decay * (1 - mask) * weight, None, None, None


class Pattern(surgery.Adapted):
    def __init__(self, linear, hp, progress):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        self.hp, self.progress = hp, progress

    def dense(self):
        hp = self.hp
        mask = surgery.pattern(self.weight.detach().abs(), hp.kept, hp.of).to(self.weight)
        if hp.flow == "linear":
            return Refined.apply(self.weight, mask, 0.0, max(0.0, 1 - self.progress() / hp.cool))
        return Refined.apply(self.weight, mask, hp.decay, 0.0)


def adapt(model, task, hp):
    surgery.replace(model, lambda linear: Pattern(linear, hp, lambda: task.progress))
