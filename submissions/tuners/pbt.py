"""Population-based training: six AdamW runs in one budget; the worst copies the best.

Jaderberg et al., "Population Based Training of Neural Networks", arXiv 1711.09846.

    members take turns of `turn` steps; fitness: mean training loss of the latest turn
    after every round: the worst member copies weights, state and (lr, wd) of the best, and each of
    lr and wd is multiplied by 0.8 or 1.2 (explore by perturbation, exploit by truncation)

Evaluation uses the member that was best in its latest turn. Every pass of every member counts.
State: parameters, m and v of six members, eighteen words per parameter.
Departures from the paper: members run one after another; fitness is the loss on new training
batches; a member's schedule follows the progress of the whole run.
"""

import torch

from harness import ops
from submissions.first_order import adamw
from submissions.tuners.hyperband import settled

MEMBERS = 6
SPACE = {
    **adamw.SPACE,
    "turn": {"choice": [10, 5, 20]},
    "spread": {"log": [3.0, 30.0]},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = {"members": [self.member() for _ in range(MEMBERS)], "best": 0}

    def member(self):
        """Return a member: weights, AdamW's state, and lr and wd log-uniform around hp's."""
        factors = self.hp.spread ** (2 * torch.rand(2, generator=self.task.rng) - 1)
        return {
            "params": ops.copies(self.task.params),
            "adam": adamw.init(self.task.params, self.hp),
            "lr": self.hp.lr * float(factors[0]),
            "wd": self.hp.wd * float(factors[1]),
            "loss": float("inf"),
        }

    def step(self):
        task, hp = self.task, self.hp
        turns, at = divmod(task.step, hp.turn)
        member = self.state["members"][turns % MEMBERS]
        params = [p.data for p in task.params]
        torch._foreach_copy_(params, member["params"])
        loss = task.forward_backward(task.next_batch())
        mine = type(hp)(**vars(hp) | {"lr": member["lr"], "wd": member["wd"]})
        ops.apply(adamw.update, task.params, member["adam"], mine, task.progress)
        torch._foreach_copy_(member["params"], params)
        member["loss"] = float(loss) / hp.turn + (member["loss"] if at else 0.0)
        if at == hp.turn - 1:
            self.select(turns)
        torch._foreach_copy_(params, self.evaluate_view())
        return loss

    def select(self, turns):
        """Set the best member after a turn; replace the worst after a round."""
        members = self.state["members"][: turns + 1]
        ranked = sorted(range(len(members)), key=lambda i: settled(members[i]["loss"]))
        self.state["best"] = ranked[0]
        if turns % MEMBERS == MEMBERS - 1:
            best, worst = members[ranked[0]], members[ranked[-1]]
            torch._foreach_copy_(worst["params"], best["params"])
            for name in ("m", "v"):
                torch._foreach_copy_(worst["adam"][name], best["adam"][name])
            worst["adam"]["step"], worst["loss"] = best["adam"]["step"], best["loss"]
            ups = torch.rand(2, generator=self.task.rng) < 0.5
            worst["lr"] = best["lr"] * (1.2 if ups[0] else 0.8)
            worst["wd"] = best["wd"] * (1.2 if ups[1] else 0.8)

    def evaluate_view(self):
        return self.state["members"][self.state["best"]]["params"]

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
