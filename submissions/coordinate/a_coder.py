"""A-CODER: accelerated cyclic dual averaging with extrapolated partial gradients.

Lin, Song and Diakonikolas, "Accelerated Cyclic Coordinate Dual Averaging with Extrapolation for
Composite Convex Optimization", arXiv 2303.16279, Algorithm 1.

    a the root of a² = 0.4·lr·(A + a);  A' = A + a;  x = (A·y + a·v)/A'
    for j = 4 ... 1:  p_j = ∇_j f(blocks up to j of x, later blocks of the new y)
        q_j = p_j + (a₋/a)·(∇_j f(x₋) − p₋_j);  z_j ← z_j + a·q_j
        v_j = block j of prox(x₀ − z, A');  y_j ← (A·y_j + a·v_j)/A'

lr is 1/L. Blocks are quarters of the parameters in their order, and prox is of the loss's rest
(task.composite). Training ends a step at y, which is evaluated. Meant for the gradient of all
examples (`variant=full` of logreg): a sweep keeps its batch, and ∇f(x₋) is of the batch before.

State: x₀, z, v, p and ∇f(x₋), five words per parameter; A and a₋.
Departures from the paper: no strong convexity of the rest (γ = 0).
"""

import torch

BLOCKS = 4
PASSES = {"forward_backward": 4}
SPACE = {"lr": {"log": [1e-3, 3.0]}}


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        x = flat(task.params)
        zero = torch.zeros_like(x)
        self.state = {"x0": x.clone(), "z": zero, "v": x.clone(), "A": 0.0, "a": 0.0}
        self.state |= {"p": zero.clone(), "whole": zero.clone()}

    def put(self, values):
        """Set the parameters to a flat vector."""
        for p, part in zip(self.task.params, self.shaped(values), strict=True):
            p.data.copy_(part)

    def shaped(self, values):
        """Return a flat vector as one tensor for each parameter."""
        params = self.task.params
        parts = values.split([p.numel() for p in params])
        return [part.view_as(p) for part, p in zip(parts, params, strict=True)]

    def step(self):
        task, s, batch = self.task, self.state, self.task.next_batch()
        c = 0.4 * self.hp.lr
        a = (c + (c * c + 4 * c * s["A"]) ** 0.5) / 2
        total = s["A"] + a
        y = flat(task.params)
        point = (s["A"] * y + a * s["v"]) / total
        v, whole = s["v"].clone(), None
        for block in reversed(torch.arange(len(y)).chunk(BLOCKS)):
            self.put(point)
            loss = task.backward(batch, task.composite.smooth)
            zero = torch.zeros_like
            g = flat([zero(p) if p.grad is None else p.grad for p in task.params])
            # The first pass of a sweep is at x itself.
            whole = g if whole is None else whole
            q = g[block] + s["a"] / a * (s["whole"][block] - s["p"][block])
            s["p"][block] = g[block]
            s["z"][block] += a * q
            near = flat(task.composite.prox(self.shaped(s["x0"] - s["z"]), total))
            v[block] = near[block]
            y[block] = (s["A"] * y[block] + a * v[block]) / total
            point[block] = y[block]
        self.put(y)
        self.state = s | {"v": v, "whole": whole, "A": total, "a": a}
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
