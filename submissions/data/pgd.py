"""PGD training: AdamW on inputs that ascend the loss inside a box, for three steps.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", arXiv 1706.06083.

    δ uniform in the box of radius ε;  three times δ ← clip(δ + a·sign ∇ₓℓ(x + δ), −ε, ε)
    descend ℓ(x + δ);  inputs stay in [0, 1];  a = ε·`stride`

State: AdamW's m and v, two words per parameter.
Departures from the paper: three steps of the attack, not 40, and AdamW.
"""

import torch

from harness import ops
from harness.batch import part
from harness.errors import UserError
from submissions.first_order import adamw

STEPS = 3
PASSES = {"forward_backward": 4}
SPACE = {
    **adamw.SPACE,
    "radius": {"linear": [0.0, 0.3], "default": 0.15},
    "stride": {"linear": [0.2, 1.0], "default": 0.6},
}


def inputs_of(batch):
    """Return the batch's pixels; raise UserError unless they are numbers in [0, 1]."""
    x = part(batch, "inputs")
    if not x.is_floating_point() or float(x.min()) < 0 or float(x.max()) > 1:
        raise UserError("an attack needs inputs in [0, 1]", "pixels", "workload=robust")
    return x


def uniform(x, radius, generator):
    """Return a random point of the box around each input."""
    drawn = 2 * torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device) - 1
    return (x + radius * drawn).clamp(0, 1)


def ascend(task, batch, moved, loss, length, radius):
    """Return the inputs one signed step uphill from `moved`, in the box around the batch's own."""
    x = batch["inputs"]
    moved = moved.detach().requires_grad_()
    task.backward(batch | {"inputs": moved}, loss)
    further = moved.detach() + length * moved.grad.sign()
    return torch.clamp(further, (x - radius).clamp(min=0), (x + radius).clamp(max=1))


def nats(task):
    """Return the loss of a model on a batch, as `task.backward` takes it."""
    return lambda model, batch: task.nats(task.logits(batch), batch).mean()


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)

    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        moved = uniform(inputs_of(batch), hp.radius, task.rng)
        for _ in range(STEPS):
            moved = ascend(task, batch, moved, nats(task), hp.radius * hp.stride, hp.radius)
        loss = task.forward_backward(batch | {"inputs": moved})
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
