"""IBP: AdamW on the loss of the worst scores that intervals allow, beside the loss of the inputs.

Gowal et al., "On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust
Models", arXiv 1810.12715.

    worst scores: the right class at its lower bound, every other at its upper bound
    descend κ·ℓ(scores) + (1 − κ)·ℓ(worst scores)
    in the first half of the horizon the radius goes from 0 to ε, and κ from 1 to `clean`

With `start` = interval, hidden matrices and the readout begin with N(0, 2π/fan-in²), at which
intervals neither grow nor vanish from layer to layer (Shi et al., "Fast Certified Robust Training
with Short Warmup", arXiv 2103.17268): the variant `fast_ibp`.
State: AdamW's m and v, two words per parameter.
Departures from the paper: AdamW; the second paper's regularisers and its batch normalisation are
left out. A step counts as one of three batches, for bounds take two.
"""

import math

import torch

from harness import ops
from harness.batch import labels
from submissions.first_order import adamw

PASSES = {"forward_backward@batch=3": 1}
SPACE = {
    **adamw.SPACE,
    "radius": {"linear": [0.0, 0.3], "default": 0.1},
    "clean": {"linear": [0.0, 1.0], "default": 0.5},
    "ramp": {"linear": [0.1, 0.9], "default": 0.5},
    "start": {"choice": ["torch", "interval"], "tuned": False},
}
VARIANTS = {"fast_ibp": {"start": "interval"}}


def worst(low, high, targets):
    """Return the scores least favourable to the right classes, [B, C]."""
    right = torch.nn.functional.one_hot(targets, low.shape[1]).bool()
    return torch.where(right, low, high)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)
        if hp.start == "interval":
            for p in task.params:
                if p.ndim == 2:
                    drawn = torch.randn(p.shape, generator=task.rng, dtype=p.dtype)
                    p.data.copy_(drawn * (math.sqrt(2 * math.pi) / p.shape[1]))

    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        share = min(1.0, task.progress / hp.ramp)
        radius, clean = share * hp.radius, 1 - share * (1 - hp.clean)
        targets = labels(batch)
        tripled = {name: torch.cat([value] * 3) for name, value in batch.items()}

        def loss(*_):
            bounds = task.bounds(batch, radius)
            scores = worst(*bounds, targets)
            plain = task.nats(task.logits(batch), batch).mean()
            return clean * plain + (1 - clean) * task.nats(scores, batch).mean()

        value = task.backward(tripled, loss)
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return value

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
