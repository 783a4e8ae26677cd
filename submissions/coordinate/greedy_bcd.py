"""Greedy block coordinate descent: only the block that promises the most progress moves.

Nutini, Laradji and Schmidt, "Let's Make Block Coordinate Descent Converge Faster", arXiv
1712.08859: fixed blocks, the rules GS and GSL, and estimated Lipschitz constants.

    b = argmax ‖g_b‖ (gs) or ‖g_b‖/√L_b (gsl);  p_b' = p_b − g_b/L_b
    f(p') ≤ f(p) − ‖g_b‖²/(2L_b): keep p', L_b ← L_b/2 at most every tenth time;  else L_b ← 2·L_b

Blocks are `size` neighbours in the order of the parameters. The whole gradient is computed to move
one block, so it pays on problems whose coordinates are cheap apart, and is dominated on networks.

State: L_b and the steps since it shrank, one number each for every block.
Departures from the paper: each step tries one L_b, so that it always costs the same; L_b may shrink
again, because the batches differ; both values of f are of the step's batch.
"""

import torch

PASSES = {"forward_backward": 1, "forward": 1}
SPACE = {
    "rule": {"choice": ["gsl", "gs"]},
    "size": {"choice": [10, 1, 100, 1000]},
    "lr": {"log": [0.1, 100.0]},
}
PATIENCE = 10


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        count = -(-sum(p.numel() for p in task.params) // hp.size)
        ones = flat(task.params).new_ones(count)
        self.state = {"L": ones / hp.lr, "wait": torch.zeros_like(ones)}

    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        bound, wait = self.state["L"], self.state["wait"]
        loss = task.forward_backward(batch)
        zero = torch.zeros_like
        g = flat([zero(p) if p.grad is None else p.grad for p in task.params])
        padded = torch.nn.functional.pad(g.square(), (0, -len(g) % hp.size))
        squares = padded.view(-1, hp.size).sum(1)
        b = int((squares / bound if hp.rule == "gsl" else squares).argmax())
        before = flat(task.params)
        part = slice(b * hp.size, (b + 1) * hp.size)
        after = before.clone()
        after[part] -= g[part] / bound[b]
        self.put(after)
        wait[b] += 1
        if task.forward(batch) <= loss - squares[b] / (2 * bound[b]):
            if wait[b] >= PATIENCE:
                bound[b], wait[b] = bound[b] / 2, 0
        else:
            bound[b], wait[b] = 2 * bound[b], 0
            self.put(before)
        return loss

    @torch.no_grad()
    def put(self, values):
        """Set the parameters to a flat vector."""
        params = self.task.params
        for p, part in zip(params, values.split([p.numel() for p in params]), strict=True):
            p.copy_(part.view_as(p))

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
