"""tpSGD: every linear map learns a fixed random projection of the label; no backward pass.

Lomnitz, Daniels, Zhang and Piacentino, "Learning with Local Gradients at the Edge", arXiv
2208.08503.

    one forward pass gives each map's inputs x and outputs y
    t = P·y*, y* the one-hot label, P fixed and random (the identity for the readout, whose y is a
    softmax)
    W ← W − lr·mean (y − t)xᵀ;  bias ← bias − lr·mean (y − t)

State: none; P is drawn again from a seed.
Departures from the paper: all maps move simultaneously; the maps are those of a transformer, so y
is the map's own output and t is the same for all tokens; embeddings and norms keep their values.
"""

import torch
import torch.nn.functional as F

from harness.batch import labels
from harness.errors import UserError
from harness.schedules import warmup_cosine

PASSES = {"forward": 1}
SPACE = {
    "lr": {"log": [1e-3, 0.3]},
    "readout_lr": {"log": [1e-2, 3.0]},
    "spread": {"log": [0.1, 3.0]},
    "warmup": 0.05,
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.seed = int(torch.randint(2**62, (), generator=task.rng))
        readouts = [r.fan_out for r in task.roles if r.kind == "readout"]
        if not readouts:
            raise UserError(
                "tpsgd needs a linear readout; this model has none", do="workload=blackbox"
            )
        self.classes = readouts[0]

    @torch.no_grad()
    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        source = torch.Generator().manual_seed(self.seed)
        factor = warmup_cosine(task.progress, hp.warmup)
        label = F.one_hot(labels(batch), self.classes).to(task.params[0])
        loss, maps = task.linear_maps(batch)
        kinds = {id(p): role.kind for p, role in zip(task.params, task.roles)}
        for module, x, y in maps:
            kind = kinds.get(id(module.weight))
            if kind == "readout":
                error, lr = y.softmax(dim=-1) - label, hp.readout_lr * factor
            elif kind == "hidden":
                p = torch.randn(self.classes, y.shape[-1], generator=source).to(label) * hp.spread
                target = (label @ p).view(len(label), *[1] * (y.ndim - 2), -1)
                error, lr = y - target, hp.lr * factor
            else:
                continue
            error, x = error.flatten(0, -2), x.flatten(0, -2)
            module.weight.sub_(error.mT @ x, alpha=lr / len(x))
            if module.bias is not None:
                module.bias.sub_(error.mean(dim=0), alpha=lr)
        return loss

    def state_dict(self):
        return {"seed": self.seed}

    def load_state_dict(self, state):
        self.seed = state["seed"]
