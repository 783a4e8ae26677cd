"""Levenberg-Marquardt: damped Gauss-Newton steps on the residuals of a frozen set of points.

Levenberg 1944, Marquardt 1963; for PINNs in the form with as many equations as points.

    d = Jᵀ(J·Jᵀ + mu·I)⁻¹ r, the same as (JᵀJ + mu·I)⁻¹Jᵀr;  p' = p − d
    f(p') < f(p): keep p', mu ← mu/3;  else: back to p, mu ← 2·mu
    every `hold` steps: new points

State: the points; mu.
Departures from the paper: new points, because on fixed ones the error stays large; linear algebra
in float64, passes in the model's precision.
"""

import torch

from submissions.samplers import uniform

PASSES = {"jacobian": 1, "forward": 1}
SPACE = {"mu": {"log": [1e-8, 1e-1], "default": 1e-4}, "hold": {"choice": [10, 30, 1]}}


def move_(params, direction, rate):
    """Add rate times a flat direction to the parameters."""
    parts = direction.split([p.numel() for p in params])
    for p, part in zip(params, parts, strict=True):
        p.data.add_(part.view_as(p).to(p), alpha=rate)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = {"points": uniform.draw(task, task.batch_size), "mu": hp.mu}

    def step(self):
        task, state = self.task, self.state
        if task.step and task.step % self.hp.hold == 0:
            state["points"] = uniform.draw(task, task.batch_size)
        batch = task.batch_at(state["points"])
        r, j = (t.double() for t in task.jacobian(batch))
        kernel = j @ j.T
        kernel.diagonal().add_(state["mu"])
        d = j.T @ torch.linalg.solve(kernel, r)
        before = [p.data.clone() for p in task.params]
        move_(task.params, d, -1.0)
        loss = r.square().sum()
        if task.forward(batch).double() < loss:
            state["mu"] = max(state["mu"] / 3, 1e-15)
        else:
            state["mu"] = min(2 * state["mu"], 1e6)
            torch._foreach_copy_([p.data for p in task.params], before)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
