"""R3: keep the collocation points whose residual is above the mean, draw the others anew.

Daw, Bu, Wang, Perdikaris, Karpatne, "Mitigating propagation failures in physics-informed neural
networks using retain-resample-release sampling", arXiv 2207.02338.

    F_i = |residual at point i|, of the loss just computed;  keep = F > mean(F), strictly
    points ← points where kept, new uniform ones elsewhere, in the same places of the batch

The number of points is constant, and the choice needs no extra residuals. The loss is the plain
mean over the points, so its bias towards large residuals is intended.

State: AdamW's m and v, two words per parameter; the step; the points.
Departures from the paper: AdamW with warm-up and cosine decay in place of Adam with steps of decay.
"""

import torch

from submissions.samplers import uniform

SPACE = uniform.SPACE


def retained(fitness):
    """Return which points stay, bool [B]."""
    return fitness > fitness.mean()


class Algorithm(uniform.Algorithm):
    def observe(self, points, residuals):
        kept = retained(residuals.abs())[:, None]
        self.state["points"] = torch.where(kept, points, uniform.draw(self.task, len(points)))
