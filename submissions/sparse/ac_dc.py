"""AC/DC: phases with a mask and phases without it take turns, so that pruned weights may return.

Peste et al., "AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks",
arXiv 2106.12379.

    dense for the first tenth of the horizon; then a twentieth with a mask and a twentieth without,
    seven times; dense from 0.8 to 0.85; with a mask to the end
    at the start of a phase with a mask: the largest |w| of all stay, the others are zero
    at the start of a dense phase every weight trains again, from zero where it was masked

State: a mask of the hidden matrices; AdamW's two words per parameter.
Departures from the paper: AdamW in place of SGD; its moments are zero where the mask is.
"""

import torch

from harness import ops, surgery
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
}


def masked(progress):
    """Return True in a phase with a mask."""
    twentieth = int(20 * progress)
    return twentieth >= 17 or (2 <= twentieth < 16 and twentieth % 2 == 0)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.weights = surgery.weights(task.model)
        self.state = adamw.init(task.params, hp)

    def step(self):
        task, hp = self.task, self.hp
        now = masked(task.progress)
        if now != (bool(task.step) and masked((task.step - 0.5) / task.horizon)):
            scores = [w.detach().abs() for w in self.weights]
            masks = magnitude.kept(scores, hp.sparsity, hp.scope, hp.two_four)
            for w, mask in zip(self.weights, masks):
                task.masks.set(w, mask if now else torch.ones_like(mask))
        loss = task.forward_backward(task.next_batch())
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
