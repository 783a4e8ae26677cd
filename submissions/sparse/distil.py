"""Distillation after pruning: the pruned model also follows the outputs of the dense one.

Balance of the two divergences: Amara et al., "BD-KD: Balancing the Divergences for Online Knowledge
Distillation", arXiv 2212.12965; soft targets: Hinton et al., arXiv 1503.02531.

    L = loss + weight·T²·mean over outputs of (a·KL(p‖q) + b·KL(q‖p)), p of the dense model, q ours,
    both softened by T;  kind "forward": a = 1, b = 0;  "reverse": a = 0, b = 1
    "balanced": (a, b) = (δ, 1) where p has the larger entropy, else (1, δ)
    the masks are those of one-shot magnitude pruning

State: a mask; the dense weights, one word per parameter; AdamW's two words per parameter.
Departures from the paper: the teacher is the pretrained model and does not train along. The paper's
δ, and which divergence it favours where, could not be read in full. The loss is the
cross-entropy of the outputs; the dense model's pass is charged by its seconds.
"""

import torch
import torch.nn.functional as F

from harness import ops
from submissions.first_order import adamw
from submissions.sparse import magnitude

TRACKS = ["compress"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [3e-4, 1e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "sparsity": {"linear": [0.0, 0.99], "default": 0.8, "goal": "sparsity"},
    "two_four": {"choice": [False, True], "goal": "two_four"},
    "scope": {"choice": ["global", "layer"]},
    "kind": {"choice": ["balanced", "forward", "reverse"], "tuned": False},
    "weight": {"log": [0.1, 10.0], "default": 1.0},
    "temperature": {"linear": [1.0, 4.0], "default": 2.0},
    # δ
    "delta": {"linear": [1.0, 4.0], "default": 2.0},
}
VARIANTS = {"distil_forward": {"kind": "forward"}, "distil_reverse": {"kind": "reverse"}}


def divergence(teacher, student, kind, delta):
    """Return the mean divergence of logits [..., C]."""
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    forward = (p.exp() * (p - q)).sum(-1)
    reverse = (q.exp() * (q - p)).sum(-1)
    if kind != "balanced":
        return (forward if kind == "forward" else reverse).mean()
    with torch.no_grad():
        wider = (p.exp() * p).sum(-1) < (q.exp() * q).sum(-1)  # entropy of p above that of q
        a, b = 1 + (delta - 1) * wider, 1 + (delta - 1) * ~wider
    return (a * forward + b * reverse).mean()


class Algorithm:
    labels = True  # whether the loss on the labels counts

    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        # Not a list: masks act on every list of the state that runs parallel to the parameters.
        self.dense = {str(i): p for i, p in enumerate(ops.copies(task.params))}
        self.compress()
        self.state = adamw.init(task.params, hp)

    def compress(self):
        """Prune; the dense weights are noted before."""
        magnitude.adapt(self.task.model, self.task, self.hp)

    def step(self):
        task, batch, ours = self.task, self.task.next_batch(), ops.copies(self.task.params)
        self.swap(self.dense.values(), teaching=True)
        with torch.no_grad():
            teacher = task.model(batch["inputs"])
        self.swap(ours, teaching=False)
        loss = task.backward(batch, lambda model, batch: self.loss(model, batch, teacher))
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return loss

    def loss(self, model, batch, teacher):
        hp, logits = self.hp, model(batch["inputs"])
        apart = divergence(teacher / hp.temperature, logits / hp.temperature, hp.kind, hp.delta)
        value = hp.weight * hp.temperature**2 * apart
        if self.labels:
            value = value + F.cross_entropy(logits.flatten(0, -2), batch["targets"].flatten())
        return value

    @torch.no_grad()
    def swap(self, values, teaching):
        """Put values in place of the trained parameters."""
        for p, value in zip(self.task.params, values):
            p.copy_(value)

    def state_dict(self):
        return {"adam": self.state, "dense": self.dense}

    def load_state_dict(self, state):
        self.state, self.dense = state["adam"], state["dense"]
