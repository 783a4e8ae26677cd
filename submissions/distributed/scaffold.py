"""SCAFFOLD: FedAvg whose clients correct their gradients by what the others' look like.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
arXiv 1910.06378, Algorithm 1 with option II.

    client   v ← v − lr·(g − c_k + c), twenty times;  c_k⁺ = c_k − c + (x − v)/Σ lr
    server   x ← Σ p_k·v_k;  c ← c + mean(c_k⁺ − c_k)

A round sends the model and the correction: two exchanges.
State: four clients' models and corrections, and the server's, ten words per parameter.
Departures from the paper: every client takes part in each round; examples are drawn with
replacement; lr follows the harness's schedule, so its sum takes the place of 20·lr.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.distributed.fedavg import EVERY, clients_of, local_batch, mean_of

PASSES = {"forward_backward@batch=1/4": 4, "exchange@batch=2": 0.05}
SPACE = {"lr": {"log": [0.01, 1.0]}, "wd": {"log": [1e-6, 1e-3]}, "warmup": 0.05}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.clients = clients_of(task)
        self.shares = [len(numbers) / task.examples for numbers in self.clients]
        x = ops.copies(task.params)
        self.state = {"x": x, "c": ops.zeros(x), "moved": 0.0}
        self.state["models"] = [ops.copies(x) for _ in self.clients]
        self.state["corrections"] = [ops.zeros(x) for _ in self.clients]

    def step(self):
        task, hp, state = self.task, self.hp, self.state
        params, lr = [p.data for p in task.params], hp.lr * warmup_cosine(task.progress, hp.warmup)
        losses = []
        for model, own, numbers in zip(state["models"], state["corrections"], self.clients):
            torch._foreach_copy_(params, model)
            losses.append(task.forward_backward(local_batch(task, numbers)))
            for v, p, c, mine in zip(model, task.params, state["c"], own):
                v.sub_(p.grad + hp.wd * v - mine + c, alpha=lr)
        state["moved"] += lr
        if (task.step + 1) % EVERY == 0:
            self.meet()
        torch._foreach_copy_(params, state["x"])
        return torch.stack(losses).mean()

    def meet(self):
        """Average models and corrections."""
        state = self.state
        self.task.exchange(2)
        changes = []
        for model, own in zip(state["models"], state["corrections"]):
            new = [
                mine - c + (x - v) / state["moved"]
                for mine, c, x, v in zip(own, state["c"], state["x"], model)
            ]
            changes.append(torch._foreach_sub(new, own))
            torch._foreach_copy_(own, new)
        torch._foreach_copy_(state["x"], mean_of(state["models"], self.shares))
        torch._foreach_add_(state["c"], mean_of(changes, [1 / len(changes)] * len(changes)))
        for model in state["models"]:
            torch._foreach_copy_(model, state["x"])
        state["moved"] = 0.0

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
