"""UniXGrad: extragradient on weighted averages with one adaptive step size, within a ball.

Kavis, Levy, Bach and Cevher, "UniXGrad: A Universal, Adaptive Algorithm with Optimal Guarantees for
Constrained Optimization", arXiv 1910.13857, Algorithm 1, with weights aₜ = t. P projects to the
ball of diameter D around p₀; s = Σ aᵢxᵢ of the steps before.

    M = gradient at (aₜy + s)/Σa;  x = P(y − aₜηM);  g = gradient at x̄ = (aₜx + s)/Σa
    y ← P(y − aₜηg);  η = 2D/√(1 + Σ aᵢ²‖gᵢ − Mᵢ‖²), over the steps before

Evaluation uses x̄. Both gradients are on batches of their own.
State: p₀, y, s and x̄, four words per parameter; the step, Σ.
Departures from the paper: D = 2·radius is a guess to be tuned; networks have no such ball.
"""

import torch

from harness import ops

PASSES = {"forward_backward": 2}
SPACE = {"radius": {"log": [0.1, 30.0]}}


def gradient(task):
    """Return the loss of the next batch and its gradient, where the model stands."""
    loss = task.forward_backward(task.next_batch())
    zero = torch.zeros_like
    return loss, [zero(p) if p.grad is None else p.grad.clone() for p in task.params]


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        copies = {key: ops.copies(task.params) for key in ("start", "y", "average")}
        self.state: dict = copies | {"sum": ops.zeros(task.params), "square": 0.0, "step": 0}

    def put(self, point):
        """Move the model to the average of `point` with weight t and of the steps before."""
        t, params = self.state["step"], [p.data for p in self.task.params]
        mean = torch._foreach_add(self.state["sum"], point, alpha=float(t))
        torch._foreach_copy_(params, torch._foreach_mul(mean, 2.0 / (t * (t + 1))))

    def moved(self, grads, length):
        """Return y − length·grads, projected to the ball."""
        way = torch._foreach_sub(self.state["y"], self.state["start"])
        torch._foreach_add_(way, grads, alpha=-length)
        torch._foreach_mul_(way, ops.clip_factor(way, self.hp.radius))
        return torch._foreach_add(self.state["start"], way)

    def step(self):
        state = self.state
        state["step"] += 1
        t, size = state["step"], 4.0 * self.hp.radius / (1.0 + state["square"]) ** 0.5
        self.put(state["y"])
        _, first = gradient(self.task)
        x = self.moved(first, t * size)
        self.put(x)
        loss, second = gradient(self.task)
        torch._foreach_copy_(state["average"], [p.data for p in self.task.params])
        torch._foreach_copy_(state["y"], self.moved(second, t * size))
        torch._foreach_add_(state["sum"], x, alpha=float(t))
        state["square"] += (t * ops.global_norm(torch._foreach_sub(second, first))) ** 2
        return loss

    def evaluate_view(self):
        return list(self.state["average"])

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
