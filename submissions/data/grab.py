"""GraB: SGD over an order of examples in which gradients of neighbours balance each other.

Lu, Guo and De Sa, "GraB: Finding Provably Better Data Permutations than Random Reshuffling",
arXiv 2205.10733.

    an epoch visits units in order σ; for the gradient g of the next unit, with m the last epoch's
    mean gradient:  c = g − m;  ε = 1 if ‖s + c‖ ≤ ‖s − c‖ else −1;  s ← s + ε·c
    ε = 1 puts the unit at the front of the next order, ε = −1 at its back

The variant `grab_pair` balances d = g₁ − g₂ of successive units, and puts one at each end. The
variant `shuffle_once` keeps its first order for all epochs. A unit is an eighth of a batch. Random
reshuffling, a new permutation in each epoch, is what the batches of plain `sgd` follow.
State: momentum, s, m and the sum of the next m, four words per parameter; two orders of the units.
Departures from the paper: units of several examples; the examples that fill no unit are left out.
"""

import torch

from harness import ops
from submissions.first_order import sgd

PARTS = 8
PASSES = {"forward_backward@batch=1/8": 8}
SPACE = {**sgd.SPACE, "balance": {"choice": ["mean", "pair", "none"], "tuned": False}}
VARIANTS = {
    "grab_pair": {"balance": "pair"},
    "shuffle_once": {"balance": "none"},
}


def sign(total, vector):
    """Return the sign that makes total + sign·vector the shorter of the two."""
    plus, minus = (sum(float((s + e * c).square().sum()) for s, c in zip(total, vector))
                   for e in (1, -1))  # fmt: skip
    return 1 if plus <= minus else -1


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.size = task.batch_size // PARTS
        units = task.examples // self.size
        order = torch.randperm(units, generator=task.rng)
        self.state = sgd.init(task.params, hp)
        self.order = {"now": order, "next": order.clone(), "at": 0, "front": 0, "back": units - 1}
        self.sums = {name: ops.zeros(task.params) for name in ("s", "mean", "next", "before")}
        self.numbers = torch.randperm(task.examples, generator=task.rng)[: units * self.size]
        self.numbers = self.numbers.view(units, self.size)

    def place(self, unit, end):
        """Put a unit at the front (1) or the back (−1) of the next order."""
        name = "front" if end == 1 else "back"
        self.order["next"][self.order[name]] = unit
        self.order[name] += end

    def balance(self, unit, g):
        """Place a unit by its gradient."""
        sums, at, units = self.sums, self.order["at"], len(self.order["now"])
        torch._foreach_add_(sums["next"], g, alpha=1 / units)
        if self.hp.balance == "mean":
            c = torch._foreach_sub(g, sums["mean"])
            end = sign(sums["s"], c)
            torch._foreach_add_(sums["s"], c, alpha=end)
            self.place(unit, end)
        elif at % 2 == 0:
            torch._foreach_copy_(sums["before"], g)
            if at == units - 1:
                self.place(unit, 1)
        else:
            d = torch._foreach_sub(sums["before"], g)
            end = sign(sums["s"], d)
            torch._foreach_add_(sums["s"], d, alpha=end)
            self.place(self.order["now"][at - 1], end)
            self.place(unit, -end)

    def turn(self):
        """Begin the next epoch."""
        order, sums = self.order, self.sums
        order["now"], order["next"] = order["next"], order["now"].clone()
        order |= {"at": 0, "front": 0, "back": len(order["now"]) - 1}
        torch._foreach_copy_(sums["mean"], sums["next"])
        for name in ("s", "next"):
            torch._foreach_zero_(sums[name])

    def step(self):
        task, losses, total = self.task, [], ops.zeros(self.task.params)
        for _ in range(PARTS):
            unit = self.order["now"][self.order["at"]]
            losses.append(task.forward_backward(task.gather(self.numbers[unit])))
            g = [torch.zeros_like(p) if p.grad is None else p.grad for p in task.params]
            torch._foreach_add_(total, g, alpha=1 / PARTS)
            if self.hp.balance != "none":
                self.balance(unit, g)
            self.order["at"] += 1
            if self.order["at"] == len(self.order["now"]):
                if self.hp.balance == "none":
                    self.order["at"] = 0
                else:
                    self.turn()
        with torch.no_grad():
            params = [p.data for p in task.params]
            sgd.update(params, total, self.state, self.hp, task.progress)
        return torch.stack(losses).mean()

    def state_dict(self):
        return {
            "momentum": self.state, "order": self.order, "sums": self.sums, "numbers": self.numbers,
        }  # fmt: skip

    def load_state_dict(self, state):
        self.state, self.order = state["momentum"], state["order"]
        self.sums, self.numbers = state["sums"], state["numbers"]
