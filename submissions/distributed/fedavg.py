"""FedAvg: clients train alone for twenty steps, then the server averages their models.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
arXiv 1602.05629. With p_k a client's share of the examples and Δ = Σ p_k·(x_k − x):

    client   twenty steps of v ← v − lr·(g + μ(v − x) + wd·v), on its own examples
    server   average   x ← x + Δ
             momentum  m ← β·m + Δ;  x ← x + m (Hsu et al., arXiv 1909.06335)
             adam      m ← .9m + .1Δ;  v ← .99v + .01Δ²;  x ← x + η·m/(√v + τ), v = τ² at first
             yogi      v ← v − .01Δ²·sign(v − Δ²) (both: Reddi et al., arXiv 2003.00295)

μ > 0 is FedProx (Li et al., arXiv 1812.06127). A trial of `fedavg` may draw μ and the server's
rule; `fedavg_plain` is the first paper's method. A step of the harness is one local step of every
client. Evaluated is the server's model.
State: four clients' models, the server's, and two of its moments, seven words per parameter.
Departures from the paper: every client takes part in each round; examples are drawn with
replacement; the local lr follows the harness's schedule.
"""

import torch

from harness import ops
from harness.errors import UserError
from harness.schedules import warmup_cosine

WORKERS, EVERY = 4, 20
PASSES = {"forward_backward@batch=1/4": 4, "exchange": 0.05}
SPACE = {
    "lr": {"log": [0.01, 1.0]},
    "wd": {"log": [1e-6, 1e-3]},
    "near": {"linear": [0.0, 1.0], "default": 0.0},
    "server": {"choice": ["average", "momentum", "adam", "yogi"]},
    "server_lr": {"log": [1e-3, 1.0], "default": 0.03},
    "momentum": {"linear": [0.0, 0.99], "default": 0.9},
    "warmup": 0.05,
}
VARIANTS = {
    "fedavg_plain": {"near": 0.0, "server": "average"},
    "fedprox": {"near": 0.1, "server": "average"},
    "fedavgm": {"near": 0.0, "server": "momentum"},
    "fedadam": {"near": 0.0, "server": "adam"},
    "fedyogi": {"near": 0.0, "server": "yogi"},
}
FIRST, SECOND, TAU = 0.9, 0.99, 1e-3


def clients_of(task):
    """Return the four clients' example numbers; raise UserError if there are not four."""
    clients = task.clients
    if len(clients) != WORKERS:
        raise UserError(f"{len(clients)} clients", f"{WORKERS}, as PASSES declares", "workload=fed")
    return clients


def local_batch(task, numbers):
    """Return a client's part of a batch: as many of its examples, drawn with replacement."""
    count = task.batch_size // WORKERS
    return task.gather(numbers[torch.randint(len(numbers), (count,), generator=task.rng)])


def mean_of(models, shares):
    """Return the weighted mean of models, lists of tensors."""
    return [sum(p * x for p, x in zip(shares, same)) for same in zip(*models)]


def serve(x, delta, m, v, hp):
    """Change the server's model x and its moments by the clients' mean change."""
    if hp.server == "average":
        torch._foreach_add_(x, delta)
    elif hp.server == "momentum":
        torch._foreach_mul_(m, hp.momentum)
        torch._foreach_add_(m, delta)
        torch._foreach_add_(x, m)
    else:
        for w, d, a, b in zip(x, delta, m, v):
            a.lerp_(d, 1 - FIRST)
            square = d.square()
            toward = square - b if hp.server == "adam" else -square * (b - square).sign()
            b.add_(toward, alpha=1 - SECOND)
            w.addcdiv_(a, b.sqrt() + TAU, value=hp.server_lr)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.clients = clients_of(task)
        self.shares = [len(numbers) / task.examples for numbers in self.clients]
        x = ops.copies(task.params)
        start = [torch.full_like(p, TAU**2) for p in x]
        self.state = {"x": x, "m": ops.zeros(x), "v": start}
        self.state["models"] = [ops.copies(x) for _ in self.clients]

    def step(self):
        task, hp, state = self.task, self.hp, self.state
        params, lr = [p.data for p in task.params], hp.lr * warmup_cosine(task.progress, hp.warmup)
        losses = []
        for model, numbers in zip(state["models"], self.clients):
            torch._foreach_copy_(params, model)
            losses.append(task.forward_backward(local_batch(task, numbers)))
            for v, p, x in zip(model, task.params, state["x"]):
                v.sub_(p.grad + hp.near * (v - x) + hp.wd * v, alpha=lr)
        if (task.step + 1) % EVERY == 0:
            self.meet()
        torch._foreach_copy_(params, state["x"])
        return torch.stack(losses).mean()

    def meet(self):
        """Average the clients' changes, and give all of them the server's new model."""
        state = self.state
        self.task.exchange()
        mean = mean_of(state["models"], self.shares)
        serve(state["x"], torch._foreach_sub(mean, state["x"]), state["m"], state["v"], self.hp)
        for model in state["models"]:
            torch._foreach_copy_(model, state["x"])

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
