"""F2SA: learn a weight for each example, from trusted ones, with first-order steps alone.

Kwon et al., "A Fully First-Order Method for Stochastic Bilevel Optimization", arXiv 2301.10945.
The upper variable is a logit x_i for each example; with g = mean σ(x_i)·ℓ_i, f = the trusted loss:

    z descends g(x, z);  y descends f(y) + λ·g(x, y);  λ ← λ + δ
    x ← x − ξ·λ·(∇_x g(x, y) − ∇_x g(x, z)), so x_i moves by −ξ·λ·σ'(x_i)(ℓ_i(y) − ℓ_i(z))/B

Neither a second derivative nor an inverse is needed. Evaluated is y. λ goes from 1 to `penalty`
over the horizon; the variant `penalty_bilevel` keeps it (Kwon et al., arXiv 2309.01753, σ = 1/λ).
State: z and AdamW's moments for y and z, five words per parameter; a logit for each example.
Departures from the paper: AdamW takes the steps of y and z, so the size of λ·g changes their
direction and not their length; one step of each for a step of x, which uses the losses of the same
passes.
"""

import torch

from harness import ops
from submissions.data.trusted_mix import draw
from submissions.first_order import adamw

PASSES = {"forward_backward": 3}
SPACE = {
    **adamw.SPACE,
    "penalty": {"log": [1.0, 100.0], "default": 11.0},
    "logit_lr": {"log": [10.0, 10000.0], "default": 1000.0},
    "rising": {"choice": [True, False]},
}
VARIANTS = {"penalty_bilevel": {"rising": False}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.lower = ops.copies(task.params)
        self.states = [adamw.init(task.params, hp) for _ in range(2)]
        self.logits = torch.zeros(task.examples, dtype=task.params[0].dtype)

    def step(self):
        task, hp, index = self.task, self.hp, self.task.next_index()
        batch, params = task.gather(index), [p.data for p in task.params]
        weights = torch.sigmoid(self.logits[index]).to(params[0])
        penalty = 1 + (hp.penalty - 1) * task.progress if hp.rising else hp.penalty
        losses = []

        def weighted(scale, accumulate):
            def loss(*_):
                nats = task.nats(task.logits(batch), batch)
                losses.append(nats.detach())
                return scale * (weights * nats).mean()

            return task.backward(batch, loss, accumulate)

        value = task.forward_backward(task.gather(draw(task.trusted, len(index), task.rng)))
        weighted(penalty, True)
        ops.apply(adamw.update, task.params, self.states[0], hp, task.progress)
        upper = ops.copies(params)
        torch._foreach_copy_(params, self.lower)
        weighted(1.0, False)
        ops.apply(adamw.update, task.params, self.states[1], hp, task.progress)
        torch._foreach_copy_(self.lower, params)
        torch._foreach_copy_(params, upper)
        slope = penalty * weights * (1 - weights) * (losses[0] - losses[1]) / len(index)
        self.logits.index_add_(0, index, -hp.logit_lr * slope.to(self.logits))
        return value

    def state_dict(self):
        return {"lower": self.lower, "states": self.states, "logits": self.logits}

    def load_state_dict(self, state):
        self.lower, self.states, self.logits = state["lower"], state["states"], state["logits"]
