"""Large batches: SGD on four times the batch, with a longer step or with added noise.

Hoffer, Hubara and Soudry, "Train longer, generalize better: closing the generalization gap in large
batch training of neural networks", arXiv 1705.08741, Section 4.

    sqrt     SGD with lr·√4 on the mean of 4B losses
    noise    SGD with lr on mean z_i·loss_i over 4B examples, z_i ~ N(1, 3)

Both give a step the covariance that SGD with lr has on B examples: (√4·lr)²/4B = lr²(1 + 3)/4B.

State: SGD's momentum, one word per parameter.
Departures from the paper: no ghost batch normalisation, which would change the workload's model,
and no clipping; the noise is drawn for each example's loss. Each label must be a single class.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

from harness import ops
from submissions.first_order import sgd

TIMES = 4
PASSES = {"forward_backward@batch=4": 1}
SPACE = {**sgd.SPACE, "rule": {"choice": ["sqrt", "noise"]}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = sgd.init(task.params, hp)

    def step(self):
        task, hp = self.task, self.hp
        batch, scale = task.next_batch(TIMES * task.batch_size), 1.0
        if hp.rule == "sqrt":
            scale, loss = TIMES**0.5, task.forward_backward(batch)
        else:
            z = torch.randn(len(batch["targets"]), generator=task.rng) * (TIMES - 1) ** 0.5 + 1

            def noisy(model, batch):
                nats = F.cross_entropy(task.logits(batch), batch["targets"], reduction="none")
                return (z.to(nats) * nats).mean()

            loss = task.backward(batch, noisy)
        longer = SimpleNamespace(**{**vars(hp), "lr": hp.lr * scale})
        ops.apply(sgd.update, task.params, self.state, longer, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
