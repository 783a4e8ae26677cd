"""Leverage replay: at a boundary the memory keeps the examples that the others explain least.

The rule by which Chang, Verma, John, Solin, Khan, "Memory-Based Dual Gaussian Processes for
Sequential Learning", arXiv 2306.03566, choose what a Gaussian process keeps: Bayesian leverage.

    s_i = β_i·φ_iᵀ·(Σ_j β_j·φ_j·φ_jᵀ + ridge·I)⁻¹·φ_i over the kept examples and a reservoir of the
    task that ended; φ are features of length 1, β_i = Σ_c p_c(1 − p_c), the curvature of the loss
    the largest s stay;  er's mix of the gradients, replay from both;  finetune's step

State: finetune's; the kept examples and the reservoir, each half of `task.memory` bytes.
Departures from the paper: the kernel is that of the network's last features, which move; half of
the memory is a reservoir, because a stream gives each example once. The score was written from a
description of the paper, not compared with its text.
"""

import torch
import torch.nn.functional as F

from harness import ops
from harness.memory import Buffer
from submissions.continual import er, finetune

TRACKS = ["continual"]
PASSES = er.PASSES
SPACE = {**er.SPACE, "ridge": {"log": [0.01, 10.0], "default": 1.0}}


def leverage(features, curvature, ridge):
    """Return the leverage [n] of features [n, d] with curvatures [n] of the loss."""
    rows = (curvature.sqrt()[:, None] * features).double()
    square = rows.T @ rows + ridge * torch.eye(rows.shape[1]).to(rows)
    return (rows * torch.linalg.solve(square, rows.T).T).sum(1)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.state = task, hp, finetune.init(task.params, hp)
        self.kept = {}
        self.present = Buffer(task.memory // 2)

    def step(self):
        task = self.task
        if task.boundary and task.step:
            self.choose()
            self.present = Buffer(task.memory // 2)
        batch = task.next_batch()
        loss = er.mix(task, batch, self, self.hp.share)
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        self.present.add(batch, task.rng)
        return loss

    def __len__(self):
        return sum(len(next(iter(part.values()))) for part in self.parts())

    def parts(self):
        """Return the kept examples and the reservoir, as far as they hold any."""
        return [part for part in (self.kept, self.present.data) if part]

    def together(self):
        """Return all examples of both."""
        parts = self.parts()
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def sample(self, size, rng):
        """Return replayed examples; er's mix asks for them in place of a memory."""
        index = torch.randint(len(self), (size,), generator=rng)
        return {key: value[index.to(value.device)] for key, value in self.together().items()}

    @torch.no_grad()
    def choose(self):
        """Keep the examples with the largest leverage."""
        task, size = self.task, self.task.batch_size
        every, features, curvature = self.together(), [], []
        for first in range(0, len(self), size):
            part = {key: value[first : first + size] for key, value in every.items()}
            share = task.logits(part).softmax(-1)
            curvature.append((share * (1 - share)).flatten(1).sum(1))
            features.append(F.normalize(task.features(part), dim=1))
        scores = leverage(torch.cat(features), torch.cat(curvature), self.hp.ridge)
        room = Buffer(task.memory // 2).capacity(every)
        best = scores.topk(min(room, len(scores))).indices.sort().values
        self.kept = {key: value[best.to(value.device)] for key, value in every.items()}

    def state_dict(self):
        return {"state": self.state, "kept": self.kept, "present": self.present.state_dict()}

    def load_state_dict(self, saved):
        self.present.load_state_dict(saved["present"])
        self.state, self.kept = saved["state"], saved["kept"]
