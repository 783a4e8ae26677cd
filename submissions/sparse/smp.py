"""Static model pruning: only the scores of a mask are trained, never the weights.

Jiang et al., "Pruning Pre-trained Language Models Without Fine-Tuning", arXiv 2210.06210.

    W' = W ⊙ top_v(S), W frozen;  ∂L/∂S = ∂L/∂W' ⊙ W
    each matrix keeps the share that a global ranking of |W| gives it
    v falls as in movement pruning

State: AdamW's for S.
Departures from the paper: S starts at zero, and magnitude orders equal scores; no distillation, no
regulariser of the scores, no head for a new task.
"""

from harness import surgery
from submissions.sparse import magnitude, movement

TRACKS = ["compress"]
SPACE = {**movement.SPACE, "head_lr": {"log": [3e-3, 1e-1]}}


def adapt(model, task, hp):
    model.requires_grad_(False)
    surgery.replace(model, lambda linear: movement.Scored(linear, trained=False))


class Algorithm(movement.Algorithm):
    def step(self):
        shares = magnitude.kept([m.weight.detach().abs() for m in self.maps], self.sparsity())
        for m, by_size in zip(self.maps, shares):
            scores = m.S.detach() + 1e-12 * m.weight.detach().abs()
            mask = magnitude.top(scores.view(1, -1), int(by_size.sum()))
            m.mask.copy_(mask.view_as(m.mask))
        loss = self.task.forward_backward(self.task.next_batch())
        self.trainer.update()
        return loss
