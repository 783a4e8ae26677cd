"""GraNd pruning: AdamW on the examples whose own gradients were the longest.

Paul, Ganguli and Dziugaite, "Deep Learning on a Data Diet: Finding Important Examples Early in
Training", arXiv 2107.07075.

    scoreᵢ = ‖∇ℓᵢ‖₂ over all parameters, at the last visit;  the share of the highest scores is kept

The first quarter of the budget is ordinary training, and gives the scores: a step takes the
gradient of each example alone, and its own gradient is their mean. The norms are exact. A cheaper
score, that of `el2n_pruning` times the length of the readout's inputs, is exact for the readout's
matrix alone.
State: AdamW's m and v, two words per parameter; four numbers for each example.
Departures from the paper: scores come from one run's ordinary steps, not from ten initialisations,
and training goes on from there. Examples without a visit have the lowest score.
"""

import torch

from harness import ops
from submissions.data import calibrated_pruning
from submissions.first_order import adamw

PASSES = {"per_example_gradients": 0.25, "forward_backward": 0.75}
SPACE = {**adamw.SPACE, "share": {"linear": [0.1, 1.0], "default": 0.5}}


class Algorithm(calibrated_pruning.Algorithm):
    def learn(self, index):
        """Write the mean gradient of these examples to `p.grad`, and their scores."""
        grads = self.task.per_example_grads(self.task.gather(index))
        squares = torch.stack([g.reshape(len(g), -1).square().sum(dim=1) for g in grads])
        self.seen["score"][index] = squares.sum(dim=0).sqrt().float().cpu()
        for p, each in zip(self.task.params, grads, strict=True):
            p.grad = each.mean(dim=0)

    def step(self):
        task, loss = self.task, None
        if task.progress < calibrated_pruning.SCORING:
            self.learn(task.next_index())
        else:
            if not len(self.kept["index"]):
                order = torch.argsort(self.seen["score"], descending=True, stable=True)
                self.kept["index"] = order[: round(self.hp.share * task.examples)]
            places = self.take(task.batch_size)
            loss = task.forward_backward(task.gather(self.kept["index"][places]))
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return loss
