"""RAR-D: every 100 steps, new points where the residual is large replace some old points.

Wu, Zhu, Tan, Kartha, Lu, arXiv 2207.10289.

    every 100 steps  S = 20 batches of uniform points;  p(x) ∝ |r(x)|^k / mean |r|^k + c on S
    points ← points with `share` of a batch added, drawn from S by p without repetition

State: AdamW's m and v, two words per parameter; the step; the points.
Departures from the paper: a step has a fixed number of points, so the added points replace the
oldest of the second half of the set, and the first half stays uniform; AdamW with warm-up and
cosine decay.
"""

import torch

from submissions.samplers import rad, uniform

PASSES = {"forward_backward": 1, "forward@batch=20": 0.01}
SPACE = {**uniform.SPACE, "k": 2.0, "c": 0.0, "share": 0.05}


class Algorithm(uniform.Algorithm):
    def observe(self, points, residuals):
        if self.task.step % 100 == 99:
            added = max(1, round(self.hp.share * len(points)))
            base, grown = points.tensor_split([len(points) // 2])
            new = rad.choose(self.task, added, self.hp.k, self.hp.c)
            self.state["points"] = torch.cat([base, grown[added:], new])
