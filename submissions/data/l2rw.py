"""L2RW: AdamW on examples weighted by how well their gradients agree with trusted ones.

Ren et al., "Learning to Reweight Examples for Robust Deep Learning", arXiv 1803.09050, Algorithm 1.

    u_i = max(0, ⟨∇ℓ_i, ∇ℓ_trusted⟩);  w = u/Σu;  a step on Σ w_i·ℓ_i, and none if all u are 0

⟨∇ℓ_i, g⟩ is the derivative of ℓ_i along g: one forward-mode pass gives all of a batch.
State: AdamW's m and v, two words per parameter.
Departures from the paper: AdamW takes the place of SGD with momentum.
"""

import torch.nn.functional as F

from harness import ops
from submissions.data.trusted_mix import draw
from submissions.first_order import adamw

PASSES = {"forward_backward": 2, "jvp": 1}
SPACE = adamw.SPACE


def trusted_gradient(task):
    """Return the loss's gradient on a batch of trusted examples, a tensor per parameter."""
    task.forward_backward(task.gather(draw(task.trusted, task.batch_size, task.rng)))
    return [p.grad.clone() for p in task.params]


def agreement(task, batch, direction):
    """Return each example's cross entropy, and its derivative along a direction, [B] each."""
    logits, moved = task.jvp_logits(batch, direction)
    targets = batch["targets"]
    slope = logits.softmax(dim=1) - F.one_hot(targets, logits.shape[1]).to(logits)
    return F.cross_entropy(logits, targets, reduction="none"), (slope * moved).sum(dim=1)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)

    def step(self):
        task, batch = self.task, self.task.next_batch()
        useful = agreement(task, batch, trusted_gradient(task))[1].clamp(min=0)
        total = float(useful.sum())
        weights = useful / total if total else useful
        loss = task.backward(
            batch, lambda *_: (weights * task.nats(task.logits(batch), batch)).sum()
        )
        if total:
            ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
