"""Fixed: one set of collocation points, drawn at the start; the null of adaptive sampling.

"PINN (fixed)" in Daw et al., arXiv 2207.02338; the setting of Raissi et al., arXiv 1711.10561.

State: AdamW's m and v, two words per parameter; the step; the points.
Departures from the paper: AdamW with warm-up and cosine decay.
"""

from submissions.samplers import uniform

SPACE = uniform.SPACE


class Algorithm(uniform.Algorithm):
    def observe(self, points, residuals):
        pass
