"""DiLoCo: clients train by AdamW for twenty steps; their mean change is Nesterov's gradient.

Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models",
arXiv 2311.08105, Algorithm 1.

    client   twenty steps of AdamW from x, on its own examples; its moments are kept and not sent
    server   Δ = x − mean x_k;  b ← β·b + Δ;  x ← x − η·(Δ + β·b)

Evaluated is the server's model.
State: four clients' models and moments, x and b, fourteen words per parameter.
Departures from the paper: twenty local steps, not 500; examples are drawn with replacement. A step
of the harness is one local step of every client.
"""

import torch

from harness import ops
from submissions.distributed.fedavg import EVERY, clients_of, local_batch, mean_of
from submissions.first_order import adamw

PASSES = {"forward_backward@batch=1/4": 4, "exchange": 0.05}
SPACE = {
    **adamw.SPACE,
    "outer_lr": {"linear": [0.3, 1.2], "default": 0.7},
    "momentum": {"linear": [0.0, 0.95], "default": 0.9},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.clients = clients_of(task)
        x = ops.copies(task.params)
        self.state = {"x": x, "b": ops.zeros(x)}
        self.state["models"] = [ops.copies(x) for _ in self.clients]
        self.state["inner"] = [adamw.init(x, hp) for _ in self.clients]

    def step(self):
        task, state, losses = self.task, self.state, []
        params = [p.data for p in task.params]
        for model, inner, numbers in zip(state["models"], state["inner"], self.clients):
            torch._foreach_copy_(params, model)
            losses.append(task.forward_backward(local_batch(task, numbers)))
            ops.apply(adamw.update, task.params, inner, self.hp, task.progress)
            torch._foreach_copy_(model, params)
        if (task.step + 1) % EVERY == 0:
            self.meet()
        torch._foreach_copy_(params, state["x"])
        return torch.stack(losses).mean()

    def meet(self):
        """Take the server's step, and give all clients its new model."""
        state, hp = self.state, self.hp
        self.task.exchange()
        models = state["models"]
        mean = mean_of(models, [1 / len(models)] * len(models))
        change = torch._foreach_sub(state["x"], mean)
        ops.sgd_(state["x"], change, hp.outer_lr, 0.0, hp.momentum, state["b"], nesterov=True)
        for model in models:
            torch._foreach_copy_(model, state["x"])

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
