"""SupSup: the weights are random and fixed; each task learns which of them to use.

Wortsman et al., "Supermasks in Superposition", arXiv 2006.14769, scenario GN: the task is known in
training and inferred at the test.

    W = ±√(2/fan_in), fixed;  task k: W' = W ⊙ M_k, M_k = [S ≥ 0];  ∂L/∂S ← ∂L/∂W' ⊙ W, Adam
    prediction, for each example: the task is the mask whose scores f(x; W ⊙ M_k) have the least
    entropy of softmax, and the answer is that mask's scores

State: a mask of each task, a byte a weight; S and Adam's m and v for the present one; the step.
Departures from the paper: prediction compares the entropy of every mask, in K forward passes; the
paper takes the slope of the entropy at the mixture of all masks, which saves passes when K is
large. Adam, which the authors use beside RMSprop; biases are zero and norms keep their initial
values.
"""

import torch
from torch.func import functional_call

from harness import ops

TRACKS = ["continual"]
SPACE = {"lr": {"log": [1e-4, 0.3], "default": 3e-3}, "beta1": 0.9, "beta2": 0.99}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        named = dict(task.model.named_parameters())
        self.names = [name for name, p in named.items() if p.ndim > 1]
        for name, p in named.items():
            p.requires_grad_(p.ndim > 1)
            if p.ndim > 1:
                p.data.sign_().mul_((2 / p[0].numel()) ** 0.5)
            elif name.endswith("bias"):
                p.data.zero_()
        self.fixed = ops.copies([named[name] for name in self.names])
        self.masks, self.state = [], {}

    def begin(self):
        """Start a task: keep the last mask, and draw new scores (uniform, as the authors do)."""
        scores = ops.zeros(self.fixed)
        for s in scores:
            bound = s[0].numel() ** -0.5
            drawn = torch.rand(s.shape, generator=self.task.rng, dtype=torch.float64)
            s.copy_((2 * drawn - 1) * bound)
        m, v = ops.zeros(scores), ops.zeros(scores)
        self.state = {"scores": scores, "m": m, "v": v, "step": 0}
        self.masks.append([s >= 0 for s in scores])

    def step(self):
        task, hp = self.task, self.hp
        if task.boundary:
            self.begin()
        state, params = self.state, [p.data for p in task.params]
        torch._foreach_copy_(params, self.masked())
        loss = task.forward_backward(task.next_batch())
        grads = torch._foreach_mul([p.grad for p in task.params], self.fixed)
        state["step"] += 1
        moments, betas = (state["m"], state["v"], state["step"]), (hp.beta1, hp.beta2)
        ops.adam_(state["scores"], grads, *moments, hp.lr, betas, 1e-8)
        self.masks[-1] = [s >= 0 for s in state["scores"]]
        torch._foreach_copy_(params, self.masked())
        return loss

    def masked(self, number=-1):
        return torch._foreach_mul(self.fixed, self.masks[number])

    def state_dict(self):
        return {"masks": self.masks, **self.state}

    def load_state_dict(self, saved):
        self.masks = saved.pop("masks")
        self.state = saved


@torch.no_grad()
def predict(algorithm, inputs):
    """Return scores [B, C] of inputs of unknown tasks; before training, without a mask."""
    a = algorithm
    sets = [a.masked(k) for k in range(len(a.masks))] or [a.fixed]
    each = [dict(zip(a.names, weights)) for weights in sets]
    scores = torch.stack([functional_call(a.task.model, w, (inputs,)) for w in each])
    logs = scores.log_softmax(-1)
    entropy = -(logs.exp() * logs).sum(-1)  # [K, B]
    return scores[entropy.argmin(0), torch.arange(len(inputs), device=inputs.device)]
