"""M-ConFIG: one loss term's gradient a step, and the conflict-free direction of its momenta.

Liu, Chu, Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks",
arXiv 2408.11104, Section 3.3.

    step t takes term i = t mod K:  m_i ← β1·m_i + (1 − β1)·g_i, which has had t_i steps
    d = ConFIG of all m_i/(1 − β1^t_i), as in `config_grad`
    n = (1 − β1^t)·d;  the gradient that would have moved Adam's momentum there:
        g = (n − β1·n₋)/(1 − β1), n₋ the n of the step before;  v ← β2·v + (1 − β2)·g²
    p ← p − lr·d/(√(v/(1 − β2^t)) + eps)

State: m of each term, n and v: K + 2 words per parameter; the steps of each term.
Departures from the paper: warm-up and cosine decay; new points in every step. The rule was written
from a description of the authors' code, not compared with the paper's text.
"""

import torch

from harness.schedules import warmup_cosine
from submissions.physics.config_grad import config
from submissions.samplers import uniform

PASSES = {"forward_backward": 1, "forward": 0.01}  # the first step asks for the terms' names
SPACE = {
    "lr": {"log": [5e-4, 1e-2]},
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "warmup": 0.02,
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        n = sum(p.numel() for p in task.params)
        zero = torch.zeros(n).to(task.params[0])
        self.state = {"m": {}, "steps": {}, "n": zero, "v": zero.clone()}

    def step(self):
        task, hp, state = self.task, self.hp, self.state
        batch = task.batch_at(uniform.draw(task, task.batch_size))
        names = list(state["m"]) or list(task.terms(batch))
        if not state["m"]:
            state["m"] = {name: torch.zeros_like(state["n"]) for name in names}
            state["steps"] = dict.fromkeys(names, 0)
        t = task.step + 1
        name = names[task.step % len(names)]
        others = dict.fromkeys(other for other in names if other != name)
        loss = task.forward_backward(batch, weights=others)
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in task.params]
        state["m"][name].lerp_(torch.cat(parts), 1 - hp.beta1)
        state["steps"][name] += 1
        taken = [(m, state["steps"][n]) for n, m in state["m"].items() if state["steps"][n]]
        d = config(torch.stack([m / (1 - hp.beta1**k) for m, k in taken]))
        moved = (1 - hp.beta1**t) * d
        g = (moved - hp.beta1 * state["n"]) / (1 - hp.beta1)
        state["n"] = moved
        state["v"].lerp_(g.square(), 1 - hp.beta2)
        root = (state["v"] / (1 - hp.beta2**t)).sqrt_().add_(hp.eps)
        step = hp.lr * warmup_cosine(task.progress, hp.warmup) * d / root
        with torch.no_grad():
            for p, u in zip(task.params, step.split([p.numel() for p in task.params]), strict=True):
                p.sub_(u.view_as(p))
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
