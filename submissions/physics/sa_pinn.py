"""SA-PINN: a weight for every point, which rises where the residual stays.

McClenny and Braga-Neto, "Self-Adaptive Physics-Informed Neural Networks", arXiv 2009.04544.

    L(θ, l) = Σ_i mean_x (l_i(x)·r_i(x))²;  AdamW descends in θ, Adam ascends in l, at once
    ∂L/∂l = 2·l·r²/n, n the term's points;  l from U(0, 1)

Weights belong to points, so that the points stay the same: the sampler is `fixed`.

State: fixed's; l and its two moments, three words a point.
Departures from the paper: AdamW with warm-up and cosine decay in θ; all terms have weights; no
phase of L-BFGS.
"""

import torch

from harness import ops
from submissions.samplers import fixed

PASSES = {"forward_backward": 1, "forward": 0.001}
SPACE = {**fixed.SPACE, "weight_lr": {"log": [1e-4, 0.1], "default": 5e-3}}


class Algorithm(fixed.Algorithm):
    def weights(self, points):
        if "names" not in self.state:
            found = self.task.terms(self.task.batch_at(points))
            drawn = [torch.rand(len(v), generator=self.task.rng).to(v) for v in found.values()]
            self.state |= {"names": list(found), "l": drawn}
            self.state |= {"m": ops.zeros(drawn), "v": ops.zeros(drawn), "step": 0}
        return dict(zip(self.state["names"], self.state["l"], strict=True))

    def observe(self, points, residuals):
        state = self.state
        terms = [self.task.last_terms[n] for n in state["names"]]
        down = [-2 * w * r.square() / len(r) for w, r in zip(state["l"], terms, strict=True)]
        state["step"] += 1
        moments = (state["m"], state["v"], state["step"])
        ops.adam_(state["l"], down, *moments, self.hp.weight_lr, (0.9, 0.999), 1e-8)
