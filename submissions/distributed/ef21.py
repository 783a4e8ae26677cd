"""EF21: workers send only the largest changes of their gradients, with error feedback.

Richtárik, Sokolov, Fatkhullin, "EF21: A New, Simpler, Theoretically Better, and Practically Faster
Error Feedback", arXiv 2106.05203; momentum: Fatkhullin et al., arXiv 2305.15155 (EF21-SGDM).

    worker i: vᵢ ← (1 − η)vᵢ + η·∇fᵢ;  gᵢ ← gᵢ + TopK(vᵢ − gᵢ);  p ← p(1 − lr·wd) − lr·mean gᵢ

Four workers share the workload's batch; η = 1 is EF21.
State: g and v of four workers, eight words per parameter.
Departures from the paper: g starts at the first gradient, as the paper allows; TopK per tensor.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine

PASSES = {"forward_backward@batch=1/4": 4}
WORKERS = 4
SPACE = {
    "lr": {"log": [0.03, 1.0]},
    "wd": {"log": [1e-6, 1e-3]},
    "share": {"choice": [0.1, 0.01, 1.0]},
    "eta": {"choice": [0.1, 1.0]},
    "warmup": 0.05,
}


def top(x, share):
    """Return x with all but its largest elements in magnitude set to 0."""
    flat = x.flatten()
    kept = flat.abs().topk(max(1, round(share * len(flat)))).indices
    return torch.zeros_like(flat).index_copy(0, kept, flat[kept]).view_as(x)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = {n: [ops.zeros(task.params) for _ in range(WORKERS)] for n in ("v", "g")}
        self.state["begun"] = False

    def step(self):
        task, hp, losses = self.task, self.hp, []
        for v, g in zip(self.state["v"], self.state["g"]):
            losses.append(task.forward_backward(task.next_batch(task.batch_size // WORKERS)))
            for p, a, b in zip(task.params, v, g):
                if p.grad is not None:
                    a.lerp_(p.grad, hp.eta if self.state["begun"] else 1.0)
                    b.add_(top(a - b, hp.share) if self.state["begun"] else a)
        self.state["begun"] = True
        lr = hp.lr * warmup_cosine(task.progress, hp.warmup)
        with torch.no_grad():
            mean = [sum(g) / WORKERS for g in zip(*self.state["g"])]
            ops.sgd_([p.data for p in task.params], mean, lr, hp.wd)
        return torch.stack(losses).mean()

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
