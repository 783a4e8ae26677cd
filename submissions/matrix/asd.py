"""ASD: steepest descent with the exact step, in one factor after the other.

Tanner and Wei, "Low rank matrix completion by alternating steepest descent methods", Applied and
Computational Harmonic Analysis 40 (2016).

    d = −∇_L f, or −∇_L f·(RᵀR)⁻¹ where scaled;  t = argmin_t f(L + t·d, R);  L ← L + t·d
    then the same in R, with the new L

f is quadratic in each factor, so that ∇f(L + d) − ∇f(L) is its Hessian times d: the exact step
costs one more pass.

State: none.
Departures from the paper: the start is the workload's.
"""

import torch

from submissions.matrix import _operator, scaled_gd_lambda

PASSES = {"forward_backward": 4}
SPACE = {"scaled": {"choice": [False, True], "tuned": False}}
VARIANTS = {"scaled_asd": {"scaled": True}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        _operator.pair(task)

    def step(self):
        task, first = self.task, None
        batch = task.next_batch()
        for i, factor in enumerate(task.params):
            loss = task.forward_backward(batch)
            first = loss if first is None else first
            g, along = factor.grad.clone(), factor.grad
            if self.hp.scaled:
                grads = [p.grad for p in task.params]
                along = scaled_gd_lambda.precondition([p.data for p in task.params], grads, 0.0)[i]
            start, along = factor.data.clone(), -along
            torch.add(start, along, out=factor.data)
            task.forward_backward(batch)
            curved = (along * (factor.grad - g)).sum()
            rate = -(along * g).sum() / curved.clamp(min=1e-300)
            torch.add(start, along * rate, out=factor.data)
        return first

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
