"""Refined schedule: a first run records gradient norms, which set a second run's schedule.

Defazio et al., "Optimal Linear Decay Learning Rate Schedules and Further Refinements", arXiv
2310.07831.

    first half of the horizon: AdamW with linear decay; Gₜ = ‖gₜ‖₁
    then p and the state start again
    second half: Gₜ ← its running median, wₜ = 1/Gₜ, ηₜ ∝ wₜ·Σ_{s>t} w_s, largest value lr

State: AdamW's m and v and p₀, three words per parameter; G; the step.
Departures from the paper: the two runs share the budget, half each; the median's window is
reflected at both ends.
"""

import torch

from harness import ops
from harness.schedules import warmup_linear
from submissions.first_order import adamw

SPACE = {**adamw.SPACE, "window": 0.1}


def refine(norms, window):
    """Return factors in [0, 1] for a run's steps, from the gradient norms [T] of a similar run."""
    reach = int(window * len(norms)) // 2
    padded = torch.nn.functional.pad(norms[None], (reach, reach), mode="reflect")[0]
    weights = 1.0 / padded.unfold(0, 2 * reach + 1, 1).median(dim=1).values.clamp(min=1e-30)
    factors = weights * (weights.sum() - weights.cumsum(0))
    return (factors / factors.max()).clamp(min=0.0)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.half = max(1, task.horizon // 2)
        self.state = self.begin() | {
            "start": ops.copies(task.params),
            "norms": torch.zeros(self.half, dtype=torch.float64),
            "factors": torch.ones(self.half, dtype=torch.float64),
        }

    def begin(self):
        return adamw.init(self.task.params, self.hp)

    def step(self):
        task, state, at = self.task, self.state, self.task.step
        if at == self.half:
            with torch.no_grad():
                torch._foreach_copy_(task.params, state["start"])
            state |= self.begin() | {"factors": refine(state["norms"], self.hp.window)}
        loss = task.forward_backward(task.next_batch())
        if at < self.half:
            grads = [p.grad for p in task.params if p.grad is not None]
            state["norms"][at] = sum(g.abs().sum().double() for g in grads)
            factor = warmup_linear((at + 0.5) / self.half, self.hp.warmup)
        else:
            factor = float(state["factors"][min(at - self.half, self.half - 1)])
        ops.apply(self.update(factor), task.params, state, self.hp, task.progress)
        return loss

    def update(self, factor):
        def update(params, grads, state, hp, progress):
            state["step"] += 1
            m, v, step = state["m"], state["v"], state["step"]
            betas, eps = (hp.beta1, hp.beta2), hp.eps
            ops.adam_(params, grads, m, v, step, hp.lr * factor, betas, eps, hp.wd)

        return update

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
