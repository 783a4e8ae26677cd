"""Sparse fine-tuning (SFT-AG): a few single weights train, chosen anew during training.

Ansell et al., "Scaling Sparse Fine-Tuning to Large Language Models", arXiv 2401.16405;
window 0: SHiRA, Bhardwaj et al., "Sparse High Rank Adapters", arXiv 2406.13175.

    W' = W + scatter(φ at K places of each matrix), φ = 0, first places random
    every `period` steps: Σ∇W over `window` steps; drop the p·K smallest |φ|, take as many places
    with the largest |Σ∇W|, at φ = 0 (a place that is both keeps its φ)
    p = 1 the first time, then 0.2·(1 - t/T)
    with a window of 0 the first places stay (SHiRA's random mask)

State: AdamW's for φ; one dense sum of gradients during a window.
Departures from the paper: gradients of all places are summed, not of K candidates. AdamW's state of
a new place starts at zero, with the common bias correction. The authors' code starts it at the mean
gradient and mean square of the window, with a bias correction of its own.
"""

import torch
from torch import nn

from harness import surgery
from submissions.first_order import adamw
from submissions.peft import head_only

TRACKS = ["finetune"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [1e-3, 3e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "head_lr": 5e-3,
    "share": {"log": [1e-3, 0.1], "default": 0.0099, "goal": "trainable"},  # of all parameters
    "period": 20,
    "window": 5,
}
VARIANTS = {"shira": {"window": 0}}


class Places(surgery.Adapted):
    def __init__(self, linear, count, generator):
        super().__init__(linear)
        order = torch.randperm(self.weight.numel(), generator=generator)[:count]
        self.register_buffer("places", order.to(self.weight.device))
        self.phi = nn.Parameter(self.weight.new_zeros(count))

    def dense(self):
        return self.weight.flatten().index_add(0, self.places, self.phi).view_as(self.weight)


def adapt(model, task, hp):
    total = sum(p.numel() for p in model.parameters())
    surgery.freeze(model)
    inside = sum(m.weight.numel() for m in surgery.matrices(model).values())
    share = hp.share * total / inside
    surgery.replace(model, lambda m: Places(m, int(share * m.weight.numel()), task.rng))


def passed(task, maps, looking):
    """Make a pass on the next batch; return its loss and, if `looking`, gradients of the matrices.

    They are frozen in every other pass. Without `looking` the second value is empty.
    """
    for m in maps:
        m.weight.requires_grad_(looking)
    loss = task.forward_backward(task.next_batch())
    for m in maps:
        m.weight.requires_grad_(False)
    return loss, [m.weight.grad.flatten() for m in maps] if looking else []


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp, self.sums = task, hp, []
        self.maps = list(surgery.matrices(task.model).values())
        self.trainer = head_only.Trainer(task, hp)

    def step(self):
        task, hp = self.task, self.hp
        loss, grads = passed(task, self.maps, task.step % hp.period < hp.window)
        if grads:
            self.sums = [s + g for s, g in zip(self.sums, grads)] or grads
        self.trainer.update()
        if task.step % hp.period == hp.window - 1:
            first = task.step < hp.period
            self.move(1.0 if first else 0.2 * (1 - task.step / task.horizon))
            self.sums = []
        return loss

    @torch.no_grad()
    def move(self, share):
        moments = {id(p): i for i, p in enumerate(self.trainer.own)}
        for m, total in zip(self.maps, self.sums):
            count, score = int(share * len(m.phi)), total.abs()
            order = m.phi.abs().argsort()
            # The places with the largest |φ| stay, so they are not taken again.
            score[m.places[order[count:]]] = -1.0
            taken = score.topk(count).indices
            dropped = order[:count][~torch.isin(m.places[order[:count]], taken)]
            m.places[dropped] = taken[~torch.isin(taken, m.places)]
            i = moments[id(m.phi)]
            for values in (
                m.phi,
                self.trainer.state["own"]["m"][i],
                self.trainer.state["own"]["v"][i],
            ):
                values[dropped] = 0.0

    def state_dict(self):
        return {"trainer": self.trainer.state, "sums": self.sums}

    def load_state_dict(self, state):
        self.trainer.state, self.sums = state["trainer"], state["sums"]
