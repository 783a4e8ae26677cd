"""FedHyper: FedAvg whose server's rate follows the agreement of its last two updates.

Wang et al., "FedHyper: A Universal and Robust Learning Rate Scheduler for Federated Learning with
Hypergradient Descent", arXiv 2310.03156: the global scheduler (FedHyper-G).

    client   twenty steps of v ← v − lr·(g + wd·v), on its own examples, as in `fedavg`
    server   Δ = Σ p_k·x_k − x;  α ← clip(α + <Δ₋, Δ>, −0.8, 4);  x ← x + (1 + α)·Δ

α = 0 at first, which is FedAvg; Δ₋ is the Δ of the round before.
State: four clients' models, the server's and Δ₋, six words per parameter; α.
Departures from the paper: <Δ₋, Δ> grows with the number of parameters, so `normalised` divides it
by the two norms; the clients' own schedulers are left out. Every client takes part in each round;
examples are drawn with replacement; the local lr follows the harness's schedule.
"""

import torch

from harness import ops
from submissions.distributed import fedavg

PASSES = {"forward_backward@batch=1/4": 4, "exchange": 0.05}
SPACE = {
    "lr": {"log": [0.01, 1.0]},
    "wd": {"log": [1e-6, 1e-3]},
    "near": 0.0,
    "normalised": {"choice": [True, False]},
    "warmup": 0.05,
}


class Algorithm(fedavg.Algorithm):
    def __init__(self, task, hp):
        super().__init__(task, hp)
        x = self.state["x"]
        self.state = {"x": x, "models": self.state["models"], "way": ops.zeros(x), "rate": 0.0}

    @torch.no_grad()
    def meet(self):
        """Move the server by (1 + α) times the clients' mean change."""
        state = self.state
        self.task.exchange()
        mean = fedavg.mean_of(state["models"], self.shares)
        way = torch._foreach_sub(mean, state["x"])
        agreement = sum(float((a * b).sum()) for a, b in zip(state["way"], way, strict=True))
        if self.hp.normalised:
            norms = ops.global_norm(state["way"]) * ops.global_norm(way)
            agreement = agreement / norms if norms else 0.0
        state["rate"] = min(4.0, max(-0.8, state["rate"] + agreement))
        torch._foreach_add_(state["x"], way, alpha=1 + state["rate"])
        state["way"] = way
        for model in state["models"]:
            torch._foreach_copy_(model, state["x"])
