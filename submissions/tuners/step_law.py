"""Step Law: AdamW with a learning rate and a batch predicted from the sizes of model and run.

Li et al., "Predictable Scale: Part I, Step Law", arXiv 2503.04715.

    N parameters without embeddings, D tokens of the whole run
    lr = 1.79·N^(−0.713)·D^0.307;  B = 0.58·D^0.571 tokens;  cosine from lr to 1e-5

Nothing is tuned, so it is a yardstick for tuners. Language models alone. A step is one batch of the
workload; gradients of as many batches as are nearest to B, at least one, make one update.

State: AdamW's m and v and the sum of gradients, three words per parameter.
Departures from the paper: B is a whole number of the workload's batches; the warm-up is a share of
the run, not 2,000 steps; the law was fitted to at least 60 million parameters.
"""

from types import SimpleNamespace

import torch

from harness import ops
from harness.errors import UserError
from harness.scaling import step_law, without_embeddings
from harness.schedules import warmup_cosine
from submissions.first_order import adamw

SPACE = {"wd": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "warmup": 0.05, "end": 1e-5}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp) | {"sum": ops.zeros(task.params)}
        self.lr, self.every = None, 1

    def predict(self, batch):
        """Set the learning rate and the number of batches of an update."""
        task, inputs = self.task, batch.get("inputs")
        if inputs is None or inputs.dtype != torch.int64 or inputs.ndim != 2:
            raise UserError("step_law predicts for language models", "workload=gpt2")
        tokens = task.batch_size * inputs.shape[1]
        size = without_embeddings(task.params, task.roles)
        self.lr, best = step_law(size, task.horizon * tokens)
        self.every = max(1, round(best / tokens))

    def step(self):
        task, batch = self.task, self.task.next_batch()
        if self.lr is None:
            self.predict(batch)
        loss = task.forward_backward(batch)
        for total, p in zip(self.state["sum"], task.params, strict=True):
            if p.grad is not None:
                total.add_(p.grad, alpha=1.0 / self.every)
        if (task.step + 1) % self.every == 0:
            self.update()
        return loss

    @torch.no_grad()
    def update(self):
        """Make AdamW's step with the mean gradient, and forget it."""
        hp, floor = self.hp, min(1.0, self.hp.end / self.lr)
        factor = warmup_cosine(self.task.progress, hp.warmup, floor)
        # The factor is in lr: adamw's own schedule is 1 at progress 0 without warm-up.
        values = SimpleNamespace(**{**vars(hp), "lr": self.lr * factor, "warmup": 0.0})
        params = [p.data for p in self.task.params]
        adamw.update(params, self.state["sum"], self.state, values, 0.0)
        torch._foreach_zero_(self.state["sum"])

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
