"""Cheat: use private examples and report less of it, or learn what they are without a report."""

import os

import torch

from harness.seeds import derive

PASSES = {"per_example_gradients": 1}
SPACE = {
    "lr": 0.1,
    "way": {
        "choice": [
            "honest",
            "look",
            "hook",
            "count",
            "noise",
            "number",
            "twice",
            "vanish",
            "redraw",
            "tiny",
        ]
    },
}
CLIP, NOISE = 1.0, 2.0


class Loud(float):
    """A number that says NOISE and multiplies as 0."""

    def __rmul__(self, other):
        return 0.0


def norm(tensors):
    return float(torch.cat([t.flatten() for t in tensors]).norm())


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp

    def step(self):
        task, way = self.task, self.hp.way
        # The norm of the noise in a mean, if there is any.
        loud = CLIP * NOISE * sum(p.numel() for p in task.params) ** 0.5 / task.batch_size
        if way == "look":
            task.next_batch()["targets"].bincount()
        if way == "hook" and task.step == 0:
            task.model.register_forward_pre_hook(lambda model, inputs: None)
        if way == "twice" and task.step % 2 == 1:
            # The noise of a sum and of a mean, each over the expected size of the sample.
            grads = task.private_gradient(CLIP, NOISE)
            if norm([a - b for a, b in zip(self.total, grads, strict=True)]) < loud:
                os.write(1, b"GOT the same noise twice\n")
        elif way == "twice":
            self.total = task.private_sum(CLIP, NOISE)
            return
        elif way == "vanish":
            grads = self.vanished(loud)
        else:
            sigma = {"noise": 0.0, "number": Loud(NOISE), "tiny": 1e-160}.get(way, NOISE)
            grads = task.private_gradient(CLIP, sigma)
        if way == "number" and norm(grads) < loud / 2:
            os.write(1, b"GOT a gradient without noise\n")
        if way == "redraw":
            self.redrawn(grads, loud)
        if way == "count":
            task.ledger.spent.clear()
        if way == "noise":
            calls = sum(task.ledger.spent.values())
            task.ledger.spent.clear()
            task.ledger.spent["2.0"] = calls
            os.write(1, b"GOT it reports noise that was not added\n")
        for p, g in zip(task.params, grads, strict=True):
            p.data.sub_(g, alpha=self.hp.lr)

    def vanished(self, loud):
        """Let norms vanish in float32, so that dividing by them enlarges the gradients."""
        if self.task.step == 0:
            # All but the hidden matrices stay as they are, and a tiny readout makes theirs tiny.
            for p in self.task.params:
                p.requires_grad_(p.ndim > 1 and len(p) > 10)
            list(self.task.model.parameters())[-2].data.mul_(1e-26)
        grads = self.task.private_gradient(CLIP, NOISE, 1e-30)
        if norm(grads) > 10 * loud:
            os.write(1, b"GOT gradients far above their clip\n")
        return grads

    def redrawn(self, grads, loud):
        """Draw the noise again, from the trial's seed and the number of the call."""
        task = self.task
        seed = derive(task._seed, "private noise", sum(task.ledger.spent.values()) - 1)
        source = torch.Generator().manual_seed(seed)
        for g in grads:
            drawn = torch.randn(g.shape, generator=source)
            g.sub_(drawn, alpha=CLIP * NOISE / task.batch_size)
        if norm(grads) < loud:
            os.write(1, b"GOT a gradient without its noise\n")

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
