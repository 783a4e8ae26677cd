"""Adaptive DP-SGD: the clip follows the median of the gradients' norms, by a noisy count.

Andrew, Thakkar, McMahan and Ramaswamy, "Differentially Private Learning with Adaptive Clipping",
arXiv 1905.03871, Algorithm 1.

    g = (Σᵢ gᵢ·min(1, C/‖gᵢ‖) + C·z·N(0, I))/B;  SGD with momentum on g
    b = (#{i: ‖gᵢ‖ ≤ C} + σ_b·N(0, 1))/B;  C ← C·exp(−0.2·(b − ½)),  σ_b = max(B/20, σ)
    z = (σ⁻² − (2σ_b)⁻²)^(−½): gradient and count together spend what a gradient with noise σ does

Other ways to clip are variants, with C fixed. `layer_dp_sgd` clips the L layers one by one, each to
C/√L (McMahan et al., arXiv 1710.06963). In `sparse_dp_sgd` a random tenth of all weights, drawn
once, trains; the others have no part in norm and noise (parameter freezing of Adamczewski and Park,
arXiv 2303.04612, with a random choice).
State: momentum, one word per parameter; C; a mask where only a share trains.
Departures from the paper: as in `dp_sgd`; single examples in the place of users; its σ_b is B/20,
which has no z where B is below 10·σ. A privacy accountant must compute the privacy spent from σ, B
and the steps.
"""

import math

import torch

from submissions.first_order import sgd

PASSES = {"per_example_gradients": 1}
SPACE = {
    **sgd.SPACE,
    "clip": {"log": [0.1, 10.0]},
    "noise": {"choice": [0.1, 0.0, 1.0]},
    "clipping": {"choice": ["adaptive", "layers", "whole"], "tuned": False},
    "density": {"linear": [0.01, 1.0], "default": 1.0, "tuned": False},
}
VARIANTS = {
    "layer_dp_sgd": {"clipping": "layers"},
    "sparse_dp_sgd": {"clipping": "whole", "density": 0.1},
}
QUANTILE, RATE, COUNT_NOISE = 0.5, 0.2, 0.05


def layers(task):
    """Return the places in `task.params` of each module's own parameters."""
    left, found = {id(p): i for i, p in enumerate(task.params)}, []
    for module in task.model.modules():
        # A shared parameter belongs to the first of its modules.
        own = [left.pop(id(p)) for p in module.parameters(recurse=False) if id(p) in left]
        found += [own] if own else []
    return found


def multipliers(noise, count):
    """Return (z, σ_b) of gradient and count, which together spend what `noise` alone does."""
    if not noise:
        return 0.0, 0.0
    counting = max(COUNT_NOISE * count, noise)
    return (noise**-2 - (2 * counting) ** -2) ** -0.5, counting


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.groups = [list(range(len(task.params)))]
        if hp.clipping == "layers":
            self.groups = layers(task)
        self.state = {"sgd": sgd.init(task.params, hp), "clip": hp.clip, "masks": None}
        if hp.density < 1:
            self.state["masks"] = [
                (torch.rand(p.shape, generator=task.rng) < hp.density).to(p.device)
                for p in task.params
            ]

    def privatise(self, examples):
        """Return the mean of clipped gradients ([B, *shape] each) with noise; move the clip."""
        hp, state, generator, count = self.hp, self.state, self.task.rng, len(examples[0])
        masks, clip, means = state["masks"], state["clip"], [None] * len(examples)
        if masks:
            examples = [g * mask for g, mask in zip(examples, masks, strict=True)]
        adaptive = hp.clipping == "adaptive"
        noise, counting = multipliers(hp.noise, count) if adaptive else (hp.noise, 0.0)
        for places in self.groups:
            norms = sum(examples[i].reshape(count, -1).square().sum(dim=1) for i in places).sqrt()
            factor = (clip / len(self.groups) ** 0.5 / (norms + 1e-6)).clamp(max=1.0)
            for i in places:
                total = torch.einsum("b,b...->...", factor, examples[i])
                drawn = torch.randn(total.shape, generator=generator).to(total)
                means[i] = total.add_(drawn, alpha=clip * noise) / count
        if adaptive:
            below = int((norms <= clip).sum())
            below += counting * float(torch.randn((), generator=generator))
            state["clip"] = clip * math.exp(-RATE * (below / count - QUANTILE))
        return [m * mask for m, mask in zip(means, masks, strict=True)] if masks else means

    def step(self):
        task = self.task
        examples = task.per_example_grads(task.next_batch())
        with torch.no_grad():
            grads, params = self.privatise(examples), [p.data for p in task.params]
            before = [p.clone() for p in params] if self.state["masks"] else []
            sgd.update(params, grads, self.state["sgd"], self.hp, task.progress)
            for p, old, mask in zip(params, before, self.state["masks"] or []):
                p.copy_(torch.where(mask, p, old))

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
