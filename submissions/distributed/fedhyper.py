"""FedHyper: local SGD whose server's rate follows the agreement of its last two updates.

Wang et al., "FedHyper: A Universal and Robust Learning Rate Scheduler for Federated Learning with
Hypergradient Descent", arXiv 2310.03156: the global scheduler (FedHyper-G).

    four replicas: SGD on their own quarter of every batch, for `every` steps
    Δ = mean of the replicas − w;  α ← clip(α + <Δ₋, Δ>, −0.8, 4)
    w ← mean of the replicas + α·Δ, for all replicas

α = 0 at first, which is plain averaging; the server's rate is 1 + α.
State: parameters and momentum of four replicas, w and Δ, ten words per parameter; α.
Departures from the paper: <Δ₋, Δ> depends on the number of parameters, so `normalised` divides it
by the norms; the clients' own schedulers are left out.
"""

import torch

from harness import ops
from submissions.distributed import local_sgd

WORKERS = 4
PASSES = {"forward_backward@batch=1/4": 4}
SPACE = {
    "lr": {"log": [0.03, 1.0]},
    "momentum": 0.5,
    "nesterov": False,
    "wd": {"log": [1e-6, 1e-3]},
    "warmup": 0.05,
    "every": {"choice": [10, 20, 5]},
    "normalised": {"choice": [True, False]},
}


class Algorithm(local_sgd.Algorithm):
    def __init__(self, task, hp):
        super().__init__(task, hp)
        self.server = {"w": ops.copies(task.params), "way": ops.zeros(task.params), "alpha": 0.0}

    @torch.no_grad()
    def gossip(self):
        server, mean = self.server, self.evaluate_view()
        way = torch._foreach_sub(mean, server["w"])
        agreement = sum(float((a * b).sum()) for a, b in zip(server["way"], way, strict=True))
        if self.hp.normalised:
            norms = ops.global_norm(server["way"]) * ops.global_norm(way)
            agreement = agreement / norms if norms else 0.0
        server["alpha"] = min(4.0, max(-0.8, server["alpha"] + agreement))
        torch._foreach_add_(mean, way, alpha=server["alpha"])
        server["w"], server["way"] = ops.copies(mean), way
        self.replicas = [ops.copies(mean) for _ in range(WORKERS)]

    def state_dict(self):
        return super().state_dict() | {"server": self.server}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.server = state["server"]
