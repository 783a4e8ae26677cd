"""L-BFGS: quasi-Newton steps from the last changes of p and g, each on one frozen batch.

Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", 1989; pairs from
one batch: Berahas, Nocedal, Takáč, arXiv 1605.06049 (multi-batch L-BFGS).

    d = −H·g by the two-loop recursion, H₀ = sᵀy/yᵀy of the latest pair (the first step: 1/‖g‖)
    p' = p + τ·d;  g' = ∇f(p') on the same batch
    f' ≤ f + c·τ·gᵀd: keep p'; keep the pair (s, y) = (p' − p, g' − g) if curved; τ ← min(lr, 2τ)
    else: back to p; τ ← τ/2

State: the last `pairs` changes of p and g, 2·pairs words per parameter; τ.
Departures from the paper: each step tries one size τ instead of a line search, so that it always
costs two passes; τ carries over to the next step.
"""

import torch

from harness import ops

PASSES = {"forward_backward": 2}
SPACE = {
    "lr": {"log": [0.1, 1.0], "default": 1.0},
    "pairs": {"choice": [10, 5, 20]},
    "armijo": 1e-4,
    "curved": 1e-8,
}


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def direction(g, s, y):
    """Return −H·g by the two-loop recursion over the pairs [k, n], oldest first."""
    q, used = -g, []
    for a, b in zip(reversed(s), reversed(y)):
        used.append((a @ q) / (a @ b))
        q = q - used[-1] * b
    q = q * ((s[-1] @ y[-1]) / (y[-1] @ y[-1])) if len(s) else q / (g.norm() + 1e-30)
    for a, b in zip(s, y):
        q = q + (used.pop() - (b @ q) / (a @ b)) * a
    return q


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        none = flat(task.params).detach().new_zeros(0, sum(p.numel() for p in task.params))
        self.state = {"s": none, "y": none, "tau": hp.lr}

    def step(self):
        task, hp, state = self.task, self.hp, self.state
        batch = task.next_batch()
        loss = task.forward_backward(batch)
        params = [p for p in task.params if p.grad is not None]
        before, g = ops.copies(params), flat(p.grad for p in params)
        with torch.no_grad():
            d = direction(g, state["s"], state["y"])
            step = state["tau"] * d
            for p, part in zip(params, step.split([p.numel() for p in params])):
                p.add_(part.view_as(p))
        after = task.forward_backward(batch)
        y = flat(p.grad for p in params) - g
        if after <= loss + hp.armijo * (g @ step):
            state["tau"] = min(hp.lr, 2 * state["tau"])
            if step @ y > hp.curved * (y @ y):
                for name, new in (("s", step), ("y", y)):
                    state[name] = torch.cat([state[name][1 - hp.pairs :], new[None]])
        else:
            state["tau"] /= 2
            torch._foreach_copy_([p.data for p in params], before)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        # Loaded tensors may have another alignment in memory: a clone restores it.
        pairs = {name: state[name].clone() for name in ("s", "y")}
        self.state = state | pairs
