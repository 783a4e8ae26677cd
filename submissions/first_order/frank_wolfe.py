"""Frank-Wolfe: steps towards the vertex that a linear minimisation oracle names; no projection.

Frank and Wolfe, "An algorithm for quadratic programming", 1956; Jaggi, ICML 2013, Algorithm 1;
pairwise: Lacoste-Julien and Jaggi, arXiv 1511.05932, Algorithm 2.

    v = argmin over the set of <g, z>
    classic     w ← (1 − γ)w + γv,  γ = 2/(t + 2)
    short       the same, γ = min(1, lr·<g, w − v>/‖w − v‖²)
    pairwise    d = v − a, a the vertex in use with the largest <g, a>;  w ← w + γd,
                γ = min(weight of a, lr·<−g, d>/‖d‖²), which moves from a's weight to v's

g is the gradient of the loss's smooth part (task.composite); lr plays the part of 1/L, and classic
does not read it. The weights are a mean of vertices from the first step on, which moves them to a
vertex.

State: t; pairwise: the vertices in use and their weights.
Departures from the paper: none.
"""

import torch

SPACE = {
    "rule": {"choice": ["classic", "short", "pairwise"]},
    "lr": {"log": [0.03, 3.0]},
}
VARIANTS = {"pairwise_frank_wolfe": {"rule": "pairwise"}}


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        w = flat(task.params)
        self.t, self.vertices, self.weights = 0, w.new_zeros(0, len(w)), w[:0]

    def step(self):
        task, hp = self.task, self.hp
        loss = task.backward(task.next_batch(), task.composite.smooth)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in task.params]
        w, g, v = flat(task.params), flat(grads), flat(task.composite.lmo(grads))
        if not self.t:
            new = v
            self.vertices, self.weights = v[None], torch.ones_like(v[:1])
        elif hp.rule == "pairwise":
            new = w + self.exchange(g, v)
        else:
            gap, way = float(g @ (w - v)), v - w
            short = min(1.0, hp.lr * max(gap, 0.0) / max(float(way @ way), 1e-300))
            new = w + (2 / (self.t + 2) if hp.rule == "classic" else short) * way
        self.t += 1
        with torch.no_grad():
            for p, part in zip(task.params, new.split([p.numel() for p in task.params])):
                p.copy_(part.view_as(p))
        return loss

    def exchange(self, g, v):
        """Move weight from the worst vertex in use to v. Return the change of the mean."""
        away = int((self.vertices @ g).argmax())
        way = v - self.vertices[away]
        slope, square = -float(g @ way), float(way @ way)
        if slope <= 0 or not square:
            return torch.zeros_like(v)
        gamma = min(float(self.weights[away]), self.hp.lr * slope / square)
        same = (self.vertices == v).all(dim=1)
        if not same.any():
            self.vertices = torch.cat([self.vertices, v[None]])
            self.weights = torch.cat([self.weights, torch.zeros_like(v[:1])])
            same = torch.cat([same, torch.ones_like(same[:1])])
        self.weights = self.weights + gamma * same
        self.weights[away] -= gamma
        used = self.weights > 0
        self.vertices, self.weights = self.vertices[used], self.weights[used]
        return gamma * way

    def state_dict(self):
        return {"t": self.t, "vertices": self.vertices, "weights": self.weights}

    def load_state_dict(self, state):
        self.t, self.vertices, self.weights = state["t"], state["vertices"], state["weights"]
