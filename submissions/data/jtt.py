"""JTT: train shortly, then start again and show the examples that it got wrong more often.

Liu et al., "Just Train Twice: Improving Group Robustness without Training Group Information",
arXiv 2107.09044, Algorithm 1.

    first fifth of the horizon: AdamW; an example is an error if its last prediction was wrong
    then AdamW from the first weights, where errors are drawn `times` as often as others

No group is asked for: errors of a short run are often of the groups that are few or hard.
State: AdamW's m and v and the first weights, three words per parameter; a mark for each example.
Departures from the paper: predictions are those of the training passes; examples that the first run
did not visit are no errors; AdamW; both runs share one budget.
"""

import torch
import torch.nn.functional as F

from harness import ops
from harness.batch import labels
from submissions.first_order import adamw

FIRST = 0.2
SPACE = {**adamw.SPACE, "times": {"log": [2.0, 100.0], "default": 5.0}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        wrong = torch.zeros(task.examples, dtype=torch.bool)
        self.state = adamw.init(task.params, hp) | {"first": ops.copies(task.params)}
        self.state |= {"wrong": wrong, "phase": 0}

    def look(self, batch, index):
        """Train on a batch, and note which of its examples the model gets wrong."""

        def loss(*_):
            logits, targets = self.task.logits(batch), labels(batch)
            self.state["wrong"][index] = (logits.detach().argmax(dim=1) != targets).cpu()
            return F.cross_entropy(logits, targets)

        return self.task.backward(batch, loss)

    def begin(self):
        """Start the second run from the first weights."""
        torch._foreach_copy_([p.data for p in self.task.params], self.state["first"])
        self.state.update(adamw.init(self.task.params, self.hp) | {"phase": 1})

    def step(self):
        task, state = self.task, self.state
        start = round(FIRST * task.horizon)
        if task.step >= start and not state["phase"]:
            self.begin()
        if state["phase"]:
            chances = torch.where(state["wrong"], self.hp.times, 1.0).double()
            index = torch.multinomial(chances, task.batch_size, True, generator=task.rng)
            loss = task.forward_backward(task.gather(index))
            progress = (task.step + 0.5 - start) / max(1, task.horizon - start)
        else:
            index = task.next_index()
            loss = self.look(task.gather(index), index)
            progress = (task.step + 0.5) / max(1, start)
        ops.apply(adamw.update, task.params, state, self.hp, progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
