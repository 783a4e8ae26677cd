"""PackNet: each task prunes its weights, keeps what is left for ever, and frees the rest.

Mallya and Lazebnik, "PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning",
arXiv 1711.05769.

    task k trains the free weights on top of those of all earlier tasks, which are fixed
    at `train` of its steps each matrix frees, of the weights it trained, those of least |w|: they
    become 0, and the share 1/(tasks left) stays task k's;  the rest of the steps trains that share
    task k is answered by the weights of tasks 1..k; the scores of a class are those of its task

Biases and norms train in task 1 alone. A row of the readout belongs to its class's task.

State: finetune's for the present task; a byte a weight; which task taught each class.
Departures from the paper: the shares are equal, where the authors prune 50 to 75 %; tasks share a
readout, of which a class's row is its own head. Where the task of a test is not given, an answer
compares the tasks' log-probabilities, which the paper does not do.
"""

import torch
from torch.func import functional_call

from harness import ops, surgery
from harness.memory import labels
from submissions.continual import finetune

TRACKS = ["continual"]
SPACE = {**finetune.SPACE, "train": {"linear": [0.5, 0.95], "default": 0.8}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.number = task, hp, 0
        self.state, self.taught = {}, torch.zeros(0, 0, dtype=torch.bool)
        self.owners = [torch.zeros(p.shape, dtype=torch.uint8) for p in self.matrices()]

    def matrices(self):
        """Return the weights that are shared out: all but biases, norms and the readout."""
        head = {id(p) for p in surgery.head(self.task.model)}
        return [p for p in self.task.params if p.ndim > 1 and id(p) not in head]

    def step(self):
        task = self.task
        first, length = task.segment
        if task.boundary:
            self.number += 1
            self.state = finetune.init(task.params, self.hp)
        if task.step == first + round(self.hp.train * length):
            self.prune(left=(task.horizon - first) // length)
            self.state = finetune.init(task.params, self.hp)
        batch = task.next_batch()
        loss = task.backward(batch, self.own)
        self.hide()
        ops.apply(finetune.update, task.params, self.state, self.hp, task.progress)
        return loss

    def own(self, model, batch):
        """Return the loss over the present task's classes, as far as they have come."""
        scores = self.task.logits(batch)
        self.taught = learnt(self.taught, labels(batch), scores.shape[-1], self.number)
        others = ~self.taught[self.number - 1].to(scores.device)
        return self.task.nats(scores.masked_fill(others, -torch.inf), batch).mean()

    def prune(self, left):
        for p, owner in zip(self.matrices(), self.owners, strict=True):
            mine = (owner == 0).to(p.device)
            kept = -(-int(mine.sum()) // left)
            size = p.data.abs().masked_fill(~mine, -1.0).flatten()
            chosen = torch.zeros_like(size, dtype=torch.bool)
            chosen[size.topk(kept).indices] = True
            chosen = chosen.view_as(p) & mine
            owner[chosen.cpu()] = self.number
            p.data.masked_fill_(mine & ~chosen, 0.0)

    def hide(self):
        """Set the gradients of what may not move to 0."""
        task = self.task
        first, length = task.segment
        now = self.number if task.step >= first + round(self.hp.train * length) else 0
        for p, owner in zip(self.matrices(), self.owners, strict=True):
            p.grad.masked_fill_((owner != now).to(p.device), 0.0)
        # Rows of the readout for other tasks' classes have no gradient: `own` leaves them out.
        head = {id(p) for p in surgery.head(task.model)}
        for p in task.params:
            if p.ndim == 1 and id(p) not in head and self.number > 1:
                p.grad.zero_()

    def state_dict(self):
        names = ("number", "state", "taught", "owners")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, saved):
        for name, value in saved.items():
            setattr(self, name, value)


def learnt(taught, targets, classes, number):
    """Return which classes each task has, bool [tasks, C], with those of task `number` added."""
    grown = torch.zeros(number, classes, dtype=torch.bool)
    grown[: len(taught)] = taught if len(taught) else grown[:0]
    grown[number - 1, targets.cpu()] = True
    return grown


def by_class(scores, taught):
    """Return for each class the log-probability by its own task among that task's classes, [B, C].

    Of several tasks with a class the surest counts; a class of no task gets -1e4.

    Args:
        scores: [K, B, C], of each task; taught: bool [K, C].
    """
    answers = torch.full_like(scores[0], -1e4)
    for each, mine in zip(scores, taught.to(scores.device), strict=True):
        answers[:, mine] = answers[:, mine].maximum(each[:, mine].log_softmax(-1))
    return answers


@torch.no_grad()
def predict(algorithm, inputs):
    """Return scores [B, C] of inputs of unknown tasks, each class by its task's weights."""
    a = algorithm
    model, number = a.task.model, a.number
    if not len(a.taught):
        return model(inputs)
    names = {id(p): name for name, p in model.named_parameters()}
    each = []
    for k in range(1, len(a.taught) + 1):
        weights = {}
        for p, owner in zip(a.matrices(), a.owners, strict=True):
            used = (owner > 0) & (owner <= k)
            # Before it is pruned, the present task has the free weights too.
            used |= (owner == 0) & (k == number)
            weights[names[id(p)]] = p.data * used.to(p.device)
        each.append(functional_call(model, weights, (inputs,)))
    return by_class(torch.stack(each), a.taught)
