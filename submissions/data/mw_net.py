"""Meta-Weight-Net: SGD on examples weighted by a small network of their loss.

Shu et al., "Meta-Weight-Net: Learning an Explicit Mapping For Sample Weighting",
arXiv 1902.07379, Algorithm 1.

    v_i = σ(B·relu(A·ℓ_i + a) + b), 100 hidden units
    virtual step  p' = p − lr·(1/n)Σ v_i·∇ℓ_i
    the network descends the trusted loss at p', by Adam; its slope in v_i is −(lr/n)·⟨∇ℓ_i, g'⟩
    true step     SGD with momentum on (1/n)Σ v_i·ℓ_i with the new v

⟨∇ℓ_i, g'⟩ at p comes from one forward-mode pass along g', the trusted gradient at p'.
State: momentum, one word per parameter; the network and its Adam moments, 903 words.
Departures from the paper: the network has no weight decay.
"""

import torch

from harness import ops
from harness.schedules import warmup_cosine
from submissions.data.l2rw import agreement, trusted_gradient
from submissions.first_order import sgd

PASSES = {"forward_backward": 3, "jvp": 1}
SPACE = {**sgd.SPACE, "net_lr": {"log": [1e-4, 1e-1], "default": 1e-3}}
HIDDEN = 100
BETAS, EPS = (0.9, 0.999), 1e-8


def start(generator):
    """Return the network's weights: as torch's nn.Linear draws them."""
    fans = (1, 1, HIDDEN, HIDDEN)
    shapes = ((HIDDEN, 1), (HIDDEN,), (1, HIDDEN), (1,))
    return [
        (2 * torch.rand(shape, generator=generator) - 1) / fan**0.5
        for shape, fan in zip(shapes, fans)
    ]


def weigh(net, losses):
    """Return the network's weight for each loss, [B]."""
    first, a, second, b = net
    return torch.sigmoid(torch.relu(losses[:, None] @ first.T + a) @ second.T + b)[:, 0]


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        net = [w.to(task.params[0]) for w in start(task.rng)]
        self.state = sgd.init(task.params, hp)
        self.net = {"net": net, "m": ops.zeros(net), "v": ops.zeros(net), "step": 0}

    def weighted(self, batch):
        """Make a pass of the loss with the network's present weights."""

        def loss(*_):
            losses = self.task.nats(self.task.logits(batch), batch)
            return (weigh(self.net["net"], losses.detach()) * losses).mean()

        return self.task.backward(batch, loss)

    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        lr, params = hp.lr * warmup_cosine(task.progress, hp.warmup), [p.data for p in task.params]
        self.weighted(batch)
        before = ops.copies(params)
        torch._foreach_sub_(params, [p.grad for p in task.params], alpha=lr)
        direction = trusted_gradient(task)
        torch._foreach_copy_(params, before)
        losses, slopes = agreement(task, batch, direction)
        self.learn(losses, -lr / len(losses) * slopes)
        loss = self.weighted(batch)
        ops.apply(sgd.update, task.params, self.state, hp, task.progress)
        return loss

    def learn(self, losses, slopes):
        """Take a step of Adam on the network: slopes [B] are of the trusted loss in the weights."""
        net = [w.detach().requires_grad_() for w in self.net["net"]]
        grads = torch.autograd.grad(weigh(net, losses) @ slopes, net)
        state = self.net
        state["step"] += 1
        with torch.no_grad():
            ops.adam_(
                state["net"], grads, state["m"], state["v"], state["step"],
                self.hp.net_lr, BETAS, EPS,
            )  # fmt: skip

    def state_dict(self):
        return {"momentum": self.state, "net": self.net}

    def load_state_dict(self, state):
        self.state, self.net = state["momentum"], state["net"]
