"""Noisy inputs: each step is learnt from inputs with noise of their own size, for long rollouts.

Hao et al., "DPOT: Auto-Regressive Denoising Operator Transformer for Large-Scale PDE Pre-Training",
arXiv 2403.03542.

    x ← x + noise·rms(x)·N(0, 1) for each example, the targets as they are;  AdamW's step

State: AdamW's m and v, two words per parameter.
Departures from the paper: AdamW with β of adamw; rms(x), the norm over the root of the number of
values, so that noise does not depend on the grid.
"""

import torch

from harness import ops
from harness.errors import UserError
from submissions.first_order import adamw

SPACE = {**adamw.SPACE, "noise": {"log": [1e-4, 0.1], "default": 5e-3}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.state = task, hp, adamw.init(task.params, hp)

    def step(self):
        task = self.task
        batch = task.next_batch()
        x = batch.get("inputs")
        if x is None or not x.is_floating_point():
            raise UserError("noisy_inputs needs inputs that are real numbers", "operator_burgers")
        drawn = torch.randn(x.shape, generator=task.rng).to(x)
        size = x.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (x.ndim - 1))
        loss = task.forward_backward(batch | {"inputs": x + self.hp.noise * size * drawn})
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
