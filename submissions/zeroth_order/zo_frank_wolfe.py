"""Zeroth-order Frank-Wolfe: averaged difference quotients, and vertices of the set.

Sahu, Zaheer and Kar, "Towards Gradient Free and Projection Free Stochastic Optimization", arXiv
1810.03233: the improved random directions (I-RDSA).

    ĝ = mean over 4 directions of (f(w + c·z) − f(w))/c·z,  z ~ N(0, I), on one batch
    d ← (1 − ρ)d + ρ·ĝ;  v = argmin over the set of <d, z>;  w ← (1 − γ)w + γ·v
    γ = 2/(t + 8);  ρ = 4/((1 + n/4)^(1/3)·(t + 8)^(2/3)), at most 1
    c = 2√4·scale/(n^(3/2)·(t + 8)^(1/3))

n is the number of parameters and t counts from 1. Forward passes alone; the workload has the set.
State: d, one word per parameter; t.
Departures from the paper: `scale` multiplies c, whose theory is for noise that these losses lack.
"""

import torch

DIRECTIONS = 4
PASSES = {"forward": 5}
SPACE = {"scale": {"log": [1.0, 1000.0]}}


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = {"d": torch.zeros_like(flat(task.params)), "t": 0}

    def shaped(self, vector):
        """Return a flat vector as one tensor for each parameter."""
        params = self.task.params
        parts = vector.split([p.numel() for p in params])
        return [part.view_as(p) for part, p in zip(parts, params, strict=True)]

    def put(self, vector):
        """Set the parameters to a flat vector."""
        torch._foreach_copy_(self.task.params, self.shaped(vector))

    @torch.no_grad()
    def step(self):
        task, state, batch = self.task, self.state, self.task.next_batch()
        state["t"] += 1
        w, late = flat(task.params), state["t"] + 8
        c = 2 * DIRECTIONS**0.5 * self.hp.scale / (len(w) ** 1.5 * late ** (1 / 3))
        rho = min(1.0, 4 / ((1 + len(w) / DIRECTIONS) ** (1 / 3) * late ** (2 / 3)))
        here, estimate = task.forward(batch), torch.zeros_like(w)
        for _ in range(DIRECTIONS):
            z = torch.randn(len(w), generator=task.rng, dtype=torch.float64).to(w)
            self.put(w + c * z)
            estimate += (task.forward(batch) - here) / c * z / DIRECTIONS
        state["d"] = torch.lerp(state["d"], estimate, rho)
        vertex = flat(task.composite.lmo(self.shaped(state["d"])))
        self.put(torch.lerp(w, vertex, 2 / late))
        return here

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
