"""Self-tuning networks: each hidden map learns how its weights answer to its own L2 penalty.

MacKay et al., "Self-Tuning Networks: Bilevel Optimization of Hyperparameters using Structured
Best-Response Functions", arXiv 1903.03088, Algorithm 1.

    map l with log penalties h: (W + diag(s_w)·V)x + b + s_b∘c,  (s_w, s_b) = U·(h − h₀)
    two steps of W, V, U, b, c by SGD on  ℓ + Σ ½·exp(h'_l)·‖W_l in effect‖²
    where h' = h + softplus(σ)·ε
    then one step of h and σ by Adam on  ℓ_valid(h') − τ·Σ log softplus(σ)

ℓ_valid is that of trusted examples where the workload has them, else of a tenth of the training
examples, which then train no weight. Handed over is W + diag(s_w)·V at h.
State: momentum; V and U; with them four words per parameter. h and σ, two numbers a map.
Departures from the paper: one draw of ε for a step, not for each example; penalties alone are
tuned; the answer is around the start h₀, so that the first weights are those of the workload.
"""

import torch
import torch.nn.functional as F

from harness import ops, surgery
from harness.errors import UserError
from harness.schedules import warmup_cosine
from submissions.tuners._answering import Answering
from submissions.tuners.trusted_hyperband import drawn

PASSES = {"forward_backward": 1}
SPACE = {
    "lr": {"log": [0.003, 0.3], "default": 0.03},
    "tuner_lr": {"log": [1e-3, 0.3], "default": 0.03},
    "penalty": {"log": [1e-6, 1e-2], "default": 1e-4},
    "entropy": {"log": [1e-6, 1e-1], "default": 1e-3},
    "scale": 0.5,
    "warmup": 0.05,
}
MOMENTUM, BETAS, EPS, HELD = 0.9, (0.9, 0.999), 1e-8, 10
# Of three steps the last is the tuner's.
TURN = 3


def adapt(model, task, hp):
    count = len(surgery.matrices(model))
    surgery.replace(model, lambda linear: Answering(linear, count))
    return model


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.maps = list(surgery.matrices(task.model).values())
        like = self.maps[0].weight
        zero = like.new_zeros(len(self.maps))
        # The inverse of softplus at the first scale.
        first = torch.expm1(zero + hp.scale).log()
        self.tuned = [zero.clone(), first]
        self.start = float(torch.tensor(hp.penalty).log())
        self.state = {"b": ops.zeros(task.params), "m": ops.zeros(self.tuned)}
        self.state |= {"v": ops.zeros(self.tuned), "steps": 0}
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(task.examples, generator=generator)
        try:
            self.valid, self.train = task.trusted, None
        except UserError:
            held = task.examples // HELD
            self.valid, self.train = order[:held], order[held:]

    def perturbed(self):
        """Return h' − h₀ as a function of h − h₀ and σ, with one draw of ε."""
        noise = torch.randn(len(self.maps), generator=self.task.rng).to(self.tuned[0])
        return lambda h, sigma: h + F.softplus(sigma) * noise

    def show(self, moved):
        for each in self.maps:
            each.moved = moved

    def weights_step(self):
        """Train the weights at perturbed penalties; return the loss without them."""
        task, hp, moved = self.task, self.hp, self.perturbed()(*self.tuned)
        self.show(moved)
        batch = task.next_batch() if self.train is None else drawn(task, self.train)
        penalties = (self.start + moved).exp()

        def loss(*_):
            nats = task.nats(task.logits(batch), batch).mean()
            sizes = torch.stack([each.dense().square().sum() for each in self.maps])
            seen.append(nats.detach())
            return nats + 0.5 * (penalties * sizes).sum()

        seen = []
        task.backward(batch, loss)
        lr = hp.lr * warmup_cosine(task.progress, hp.warmup)
        grads = [p.grad for p in task.params]
        with torch.no_grad():
            params = [p.data for p in task.params]
            ops.sgd_(params, grads, lr, 0.0, MOMENTUM, self.state["b"])
        return seen[0]

    def tuner_step(self):
        """Train h and σ on examples that are apart; return their loss."""
        task, state, leaves = self.task, self.state, [t.requires_grad_() for t in self.tuned]
        batch, perturb = drawn(task, self.valid), self.perturbed()
        seen = []

        def loss(*_):
            self.show(perturb(*leaves))
            nats = task.nats(task.logits(batch), batch).mean()
            seen.append(nats.detach())
            return nats - self.hp.entropy * F.softplus(leaves[1]).log().sum()

        task.backward(batch, loss)
        grads = [t.grad for t in leaves]
        self.tuned = [t.detach() for t in leaves]
        state["steps"] += 1
        ops.adam_(self.tuned, grads, state["m"], state["v"], state["steps"],
                  self.hp.tuner_lr, BETAS, EPS)  # fmt: skip
        return seen[0]

    def step(self):
        turn = self.task.step % TURN
        loss = self.tuner_step() if turn == TURN - 1 else self.weights_step()
        # What is handed over are the weights at h.
        self.show(self.tuned[0])
        return loss

    def state_dict(self):
        return {"state": self.state, "tuned": self.tuned}

    def load_state_dict(self, state):
        self.state, self.tuned = state["state"], state["tuned"]
        self.show(self.tuned[0])
