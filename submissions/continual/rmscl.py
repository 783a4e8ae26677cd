"""RMSCL: replay the stored examples whose features reconstruct the new ones, by a sparse solution.

Nazemi, Shafiee, Gharaee, Fieguth, "Memory-Efficient Continual Learning Object Segmentation for Long
Video", arXiv 2309.15274.

    a = argmin_{a ≥ 0} ½‖φ̄ − Φᵀa‖² + λ·Σa, φ̄ the mean feature of the new examples, Φ the features
    of `candidates` batches drawn from a reservoir, all of length 1
    the replay batch is drawn by the weights a;  er's mix of the gradients;  finetune's step

State: er's.
Departures from the paper: it stores frames of a video, a reservoir stores examples; weights of zero
alone give a uniform draw. The rule was read in the paper's abstract and a description; λ is ours.
"""

import torch
import torch.nn.functional as F

from harness import ops
from submissions.continual import er, finetune

TRACKS = ["continual"]
PASSES = {"forward_backward": 2, "forward": 2}
SPACE = {**er.SPACE, "lam": {"log": [0.01, 0.5], "default": 0.1}, "candidates": 2}
RIDGE = 1e-9  # makes the lasso's solution one


def reconstruct(candidates, goal, lam):
    """Return weights a ≥ 0 [n] of the lasso ½‖goal − candidatesᵀa‖² + lam·Σa, rows [n, d]."""
    rows, along = candidates.double(), candidates.double() @ goal.double()
    square = rows @ rows.T + RIDGE * torch.eye(len(rows)).to(rows)
    return ops.nonnegative_qp(square, lam - along)


class Algorithm(er.Algorithm):
    def step(self):
        task, kept = self.task, {}

        def loss_of(model, batch):
            kept["features"] = task.features(batch)
            return task.nats(task.logits(batch), batch).mean()

        batch = task.next_batch()
        self.present = kept
        loss = er.mix(task, batch, self, self.hp.share, loss_of)
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        self.memory.add(batch, task.rng)
        return loss

    def __len__(self):
        return len(self.memory)

    @torch.no_grad()
    def sample(self, size, rng):
        """Return the replay batch; er's mix asks for it in place of the memory."""
        task, count = self.task, self.hp.candidates * size
        drawn = self.memory.sample(count, rng)
        params, found = [p.data for p in task.params], []
        for first in range(0, count, size):
            part = {key: value[first : first + size] for key, value in drawn.items()}
            found.append(task.features_of(params, part))
        goal = F.normalize(self.present["features"], dim=1).mean(0)
        rows = F.normalize(torch.cat(found), dim=1)
        weights = reconstruct(rows, F.normalize(goal, dim=0), self.hp.lam).cpu()
        if not weights.sum() > 0:
            weights = torch.ones_like(weights)
        index = torch.multinomial(weights, size, replacement=True, generator=rng)
        return {key: value[index.to(value.device)] for key, value in drawn.items()}
