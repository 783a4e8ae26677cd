"""Random-LTD: AdamW whose middle blocks see a random half of the tokens, until the last third.

Yao et al., "Random-LTD: Random and Layerwise Token Dropping Brings Efficient Training for
Large-scale Transformers", arXiv 2211.11586.

    each block of the middle half of the model, in each step: a random half of the positions, in
    their order, goes through the block; the others pass by
    last third of the horizon: all tokens in all blocks

State: AdamW's m and v, two words per parameter.
Departures from the paper: the number of tokens has two levels, so that a step's cost is known; in
the paper it grows linearly. Of L blocks L/2 drop tokens, not L − 2; L must be a multiple of 4. A
step counts as one of 3/4 of the blocks; what it takes beyond that is charged. Not compared with the
paper's text.
"""

from fractions import Fraction

import torch

from harness import ops
from harness.errors import UserError
from submissions.first_order import adamw

DROPPING, KEPT = 2 / 3, Fraction(1, 2)
PASSES = {"forward_backward": 0.3333, "forward_backward@depth=3/4": 0.6667}
SPACE = adamw.SPACE


def partly(block, chosen):
    """Return a forward function of a block that passes by the positions that are not chosen.

    Args:
        chosen: returns the positions of this step, int64 [k], for a length; None for all.
    """
    whole = block.forward

    def forward(x):
        index = chosen(x.shape[1])
        if index is None:
            return whole(x)
        return x.index_copy(1, index, whole(x.index_select(1, index)))

    return forward


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)
        blocks = getattr(task.model, "blocks", ())
        depth = len(getattr(task.model, "active", ()))
        if depth == 0 or depth % 4 or depth != len(blocks):
            raise UserError(f"random_ltd needs blocks in fours; this model has {depth}")
        self.depth, self.middle = depth, range(depth // 4, depth // 4 + depth // 2)
        self.dropping = False
        for i in self.middle:
            blocks[i].forward = partly(blocks[i], self.chosen)

    def chosen(self, length):
        """Return the positions that a block sees now, or None for all."""
        if not self.dropping:
            return None
        count = max(1, int(length * KEPT))
        drawn = torch.randperm(length, generator=self.task.rng)[:count].sort().values
        return drawn.to(self.task.params[0].device)

    def step(self):
        task = self.task
        self.dropping = task.progress < DROPPING
        if self.dropping:
            # A block that sees half of the tokens counts as half a block.
            for i in self.middle:
                task.model.active[i] = KEPT
        loss = task.forward_backward(task.next_batch())
        task.model.active = [True] * self.depth
        self.dropping = False
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
