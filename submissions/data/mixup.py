"""Mixup: AdamW on convex mixtures of pairs of images, with the loss mixed alike.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412.

    λ ~ Beta(α, α), one a batch; x = λ·x_i + (1 − λ)·x_j, j a permutation of i
    loss = λ·CE(x, y_i) + (1 − λ)·CE(x, y_j)

State: AdamW's m and v, two words per parameter.
Departures from the paper: none. It needs inputs that can be averaged, so images alone.
"""

import torch
import torch.nn.functional as F

from harness import ops
from harness.batch import labels, part
from harness.errors import UserError
from submissions.first_order import adamw

SPACE = {**adamw.SPACE, "alpha": {"log": [0.1, 4.0], "default": 1.0}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)

    def step(self):
        task, batch = self.task, self.task.next_batch()
        inputs, targets = part(batch, "inputs"), labels(batch)
        if not (inputs.is_floating_point() or inputs.dtype == torch.uint8):
            raise UserError(
                f"mixup averages inputs, and these are of {inputs.dtype}", "pixels, as vit has them"
            )
        # The global generator is seeded by the step.
        share = float(torch.distributions.Beta(self.hp.alpha, self.hp.alpha).sample())
        partner = torch.randperm(len(inputs), generator=task.rng)
        mixed = share * inputs + (1 - share) * inputs[partner]

        def loss(model, batch):
            logits = task.logits(batch)
            first, second = (F.cross_entropy(logits, y) for y in (targets, targets[partner]))
            return share * first + (1 - share) * second

        value = task.backward(batch | {"inputs": mixed}, loss)
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return value

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
