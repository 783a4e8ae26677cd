"""1-bit Adam: AdamW for a while, then its variance is frozen and clients send signs of momentum.

Tang et al., "1-bit Adam: Communication Efficient Large-Scale Training with Adam's Convergence
Speed", arXiv 2102.02888, Algorithm 1.

    first fifth   AdamW on the mean gradient, one exchange a step; then v stays as it is
    after that    m_k = β1·m + (1 − β1)g_k;  client sends C(m_k + e_k), the server C(mean + e)
                  C(x) = sign(x)·‖x‖/√d;  e ← what C left out, on either side
                  m = what the server sends;  p ← p(1 − lr·wd) − lr·m/(√v + eps)

A frozen v that is almost 0 would make the steps of its element explode, for all elements of m now
have one size: v is at least `floor` times its tensor's mean.
State: m, v, four clients' errors and the server's, seven words per parameter.
Departures from the paper: the floor of v. C acts on each tensor. Elements whose v is 0 are not
changed, because their gradient has been 0 so far. Examples are drawn with replacement.
"""

from fractions import Fraction

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.distributed.fedavg import clients_of, local_batch, mean_of
from submissions.first_order import adamw

WARM = 0.2
PASSES = {"forward_backward@batch=1/4": 4, "exchange": 0.2, "exchange@batch=1/32": 0.8}
SPACE = {**adamw.SPACE, "floor": {"log": [1e-4, 1.0], "default": 0.1}}


def one_bit(x):
    """Return sign(x)·‖x‖/√d; the sign of 0 is 1."""
    return torch.where(x < 0, -1.0, 1.0).to(x) * (x.norm() / x.numel() ** 0.5)


def coded(values, errors, live):
    """Return 1-bit codes of values plus errors, and change the errors to what is left out."""
    codes = []
    for value, error, mask in zip(values, errors, live):
        whole = torch.where(mask, value + error, 0.0)
        code = torch.where(mask, one_bit(whole), 0.0)
        error.copy_(whole - code)
        codes.append(code)
    return codes


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.clients = clients_of(task)
        self.state = adamw.init(task.params, hp)
        self.errors = [ops.zeros(task.params) for _ in range(len(self.clients) + 1)]

    def step(self):
        task, hp, state, losses, grads = self.task, self.hp, self.state, [], []
        for numbers in self.clients:
            losses.append(task.forward_backward(local_batch(task, numbers)))
            grads.append([p.grad.clone() for p in task.params])
        params, equal = [p.data for p in task.params], [1 / len(grads)] * len(grads)
        with torch.no_grad():
            if (task.step + 1) <= WARM * task.horizon:
                task.exchange()
                adamw.update(params, mean_of(grads, equal), state, hp, task.progress)
            else:
                task.exchange(Fraction(1, 32))
                self.compressed(params, grads, equal)
        return torch.stack(losses).mean()

    def compressed(self, params, grads, equal):
        """Take a step by momenta that were sent as signs."""
        task, hp, m, v = self.task, self.hp, self.state["m"], self.state["v"]
        live = [b > 0 for b in v]
        arrived = []
        for g, error in zip(grads, self.errors):
            own = [torch.lerp(a, b, 1 - hp.beta1) for a, b in zip(m, g)]
            arrived.append(coded(own, error, live))
        torch._foreach_copy_(m, coded(mean_of(arrived, equal), self.errors[-1], live))
        lr = hp.lr * warmup_cosine(task.progress, hp.warmup)
        for p, a, b in zip(params, m, v):
            root = b.clamp(min=hp.floor * float(b.mean())).sqrt()
            p.mul_(1 - lr * hp.wd).addcdiv_(a, root + hp.eps, value=-lr)

    def state_dict(self):
        return {"adam": self.state, "errors": self.errors}

    def load_state_dict(self, state):
        self.state, self.errors = state["adam"], state["errors"]
