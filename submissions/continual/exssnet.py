"""ExSSNeT: each task learns which weights it uses, then trains those that no earlier task uses.

Yadav and Bansal, "Exclusive Supermask Subnetwork Training for Continual Learning",
arXiv 2210.10209; the masks are SupSup's (arXiv 2006.14769).

    for `search` of a task's steps: M_k = the `share` largest |S| of each matrix;
        ∂L/∂S ← sign(S) ⊙ ∂L/∂W' ⊙ W, W' = W ⊙ M_k, Adam
    then W moves on M_k minus M_1, ..., M_{k−1}, by Adam
    task k is answered by W ⊙ M_k; the scores of a class are those of its task

State: W; a mask of each task, a byte a weight; S or W, with Adam's m and v, for the present one.
Departures from the paper: scores start at random, not from the best earlier task's by nearest
neighbours; norms keep their initial values, where the authors' have none to train; where the task
of a test is not given, an answer compares the tasks' log-probabilities.
"""

import torch
from torch.func import functional_call

from harness import ops
from harness.memory import labels
from submissions.continual import packnet, supsup

TRACKS = ["continual"]
SPACE = {
    "lr": {"log": [1e-4, 0.3], "default": 1e-2},
    "weight_lr": {"log": [1e-4, 1e-1], "default": 3e-3},
    "beta1": 0.9,
    "beta2": 0.99,
    "share": {"linear": [0.05, 0.5], "default": 0.1},
    "search": {"linear": [0.2, 0.8], "default": 0.5},
}


def largest(scores, share):
    """Return which `share` of a matrix's scores are largest in size."""
    size = scores.abs().flatten()
    chosen = torch.zeros_like(size, dtype=torch.bool)
    chosen[size.topk(max(1, round(share * len(size)))).indices] = True
    return chosen.view_as(scores)


class Algorithm(supsup.Algorithm):
    def __init__(self, task, hp):
        super().__init__(task, hp)
        self.taught = torch.zeros(0, 0, dtype=torch.bool)

    def step(self):
        task, hp = self.task, self.hp
        first, length = task.segment
        if task.boundary:
            self.begin()
            self.masks[-1] = [largest(s, hp.share) for s in self.state["scores"]]
        searching = task.step < first + round(hp.search * length)
        if task.step == first + round(hp.search * length):
            moments = {"m": ops.zeros(self.fixed), "v": ops.zeros(self.fixed)}
            self.state = {"scores": [], **moments, "step": 0}
        torch._foreach_copy_([p.data for p in task.params], self.masked())
        loss = task.backward(task.next_batch(), self.own)
        grads, state = [p.grad for p in task.params], self.state
        state["step"] += 1
        moments, betas = (state["m"], state["v"], state["step"]), (hp.beta1, hp.beta2)
        if searching:
            signs = [s.sign() for s in state["scores"]]
            grads = torch._foreach_mul(torch._foreach_mul(grads, self.fixed), signs)
            ops.adam_(state["scores"], grads, *moments, hp.lr, betas, 1e-8)
            self.masks[-1] = [largest(s, hp.share) for s in state["scores"]]
        else:
            grads = torch._foreach_mul(grads, self.exclusive())
            ops.adam_(self.fixed, grads, *moments, hp.weight_lr, betas, 1e-8)
        torch._foreach_copy_([p.data for p in task.params], self.masked())
        return loss

    def own(self, model, batch):
        scores = self.task.logits(batch)
        number = len(self.masks)
        self.taught = packnet.learnt(self.taught, labels(batch), scores.shape[-1], number)
        others = ~self.taught[number - 1].to(scores.device)
        return self.task.nats(scores.masked_fill(others, -torch.inf), batch).mean()

    def exclusive(self):
        """Return the weights of the present mask that no earlier one has."""
        *earlier, present = self.masks
        return [
            mine & ~torch.stack([mine & False, *(m[i] for m in earlier)]).any(0)
            for i, mine in enumerate(present)
        ]

    def state_dict(self):
        return super().state_dict() | {"fixed": self.fixed, "taught": self.taught}

    def load_state_dict(self, saved):
        self.fixed, self.taught = saved.pop("fixed"), saved.pop("taught")
        super().load_state_dict(saved)


@torch.no_grad()
def predict(algorithm, inputs):
    """Return scores [B, C] of inputs of unknown tasks, each class by its task's mask."""
    a = algorithm
    if not a.masks:
        return a.task.model(inputs)
    each = [dict(zip(a.names, a.masked(k), strict=True)) for k in range(len(a.masks))]
    scores = torch.stack([functional_call(a.task.model, w, (inputs,)) for w in each])
    return packnet.by_class(scores, a.taught)
