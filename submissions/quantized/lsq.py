"""LSQ: training through rounded weights, with the step of the grid trained too.

Esser et al., "Learned Step Size Quantization", arXiv 1902.08153.

    v' = s·round(clip(v/s, -Q_N, Q_P)), Q_N = 2^(b-1), Q_P = Q_N - 1;  ∂L/∂v ← ∂L/∂v' inside, else 0
    ∂v'/∂s = -Q_N below, Q_P above, round(v/s) - v/s inside;  times 1/√(n·Q_P), n weights share s
    s = 2·mean|v|/√Q_P at the start

State: AdamW's two words per parameter, of the unrounded weights and the steps.
Departures from the paper: weights only, activations stay in float32; a step for each row or, as in
the paper, each matrix; AdamW in place of SGD.
"""

import torch
from torch import nn

from harness import surgery
from submissions.first_order import adamw
from submissions.peft import head_only

TRACKS = ["compress"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [1e-4, 3e-3]},
    "wd": 0.0,
    "beta2": 0.99,
    # Of the steps.
    "head_lr": {"log": [1e-5, 1e-2], "default": 1e-4},
    "bits": {"int": [2, 8], "default": 4, "goal": "bits"},
    "scope": {"choice": ["row", "matrix"]},
}


class Learned(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v, s, low, high, factor):
        z = v / s
        ctx.save_for_backward(z, s)
        ctx.low, ctx.high, ctx.factor = low, high, factor
        return s * z.clamp(low, high).round()

    @staticmethod
    def backward(ctx, grad):
        z, s = ctx.saved_tensors
        inside = (z >= ctx.low) & (z <= ctx.high)
        slope = torch.where(inside, z.round() - z, z.clamp(ctx.low, ctx.high))
        step = (grad * slope).sum_to_size(s.shape) * ctx.factor
        return grad * inside, step, None, None, None


class Stepped(surgery.Adapted):
    def __init__(self, linear, bits, scope):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        self.low, self.high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        w = self.weight.detach().abs()
        mean = w.mean(1, keepdim=True) if scope == "row" else w.mean().view(1, 1)
        self.s = nn.Parameter(2 * mean.clamp(min=1e-8) / self.high**0.5)
        self.factor = (w.numel() / self.s.numel() * self.high) ** -0.5

    def dense(self):
        # A step that has crossed zero would turn the weights over.
        step = self.s.abs().clamp(min=1e-8)
        return Learned.apply(self.weight, step, self.low, self.high, self.factor)


def adapt(model, task, hp):
    surgery.replace(model, lambda linear: Stepped(linear, hp.bits, hp.scope))


class Algorithm:
    def __init__(self, task, hp):
        steps = [m.get_parameter("s") for m in surgery.matrices(task.model).values()]
        self.task, self.trainer = task, head_only.Trainer(task, hp, apart=steps)

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        self.trainer.update()
        return loss

    def state_dict(self):
        return self.trainer.state

    def load_state_dict(self, state):
        self.trainer.state = state
