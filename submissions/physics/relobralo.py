"""ReLoBRaLo: weights of a PINN's loss terms from how far each has fallen, without a further pass.

Bischof and Kraus, "Multi-Objective Loss Balancing for Physics-Informed Deep Learning",
arXiv 2110.09813; SoftAdapt: Heydari, Thompson, Mehmood, arXiv 1912.12355.

    λ̂(t; t') = K·softmax_i(L_i(t)/(T·L_i(t'))), K the number of terms
    λ(t) = ρ·a·λ(t − 1) + (1 − ρ)·a·λ̂(t; 0) + (1 − a)·λ̂(t; t − 1), ρ ~ Bernoulli(chance)
    a = 0 when λ̂ is first known, then `keep`
    softadapt: λ(t) = K·softmax_i((L_i(t) − L_i(t − 1))/T)

State: uniform's; two losses and a weight for each term.
Departures from the paper: weights take effect in the next step; the losses are on new points.
"""

import torch

from submissions.samplers import uniform

SPACE = {
    **uniform.SPACE,
    "rule": {"choice": ["relobralo", "softadapt"], "tuned": False},
    "temperature": {"log": [0.1, 10.0], "default": 1.0},
    "keep": {"choice": [0.999, 0.99, 0.9]},
    "chance": {"choice": [0.999, 0.9, 0.5]},
}
VARIANTS = {"softadapt": {"rule": "softadapt"}}


class Algorithm(uniform.Algorithm):
    def weights(self, points):
        known = self.state.get("lambda")
        return known and {n: w.sqrt() for n, w in zip(self.state["names"], known, strict=True)}

    def observe(self, points, residuals):
        super().observe(points, residuals)
        task, hp, state = self.task, self.hp, self.state
        losses = torch.stack([v.square().mean() for v in task.last_terms.values()]).double().cpu()
        count = len(losses)
        if "first" in state:
            last = state["last"]
            if hp.rule == "softadapt":
                new = count * ((losses - last) / hp.temperature).softmax(0)
            else:
                rise = lambda past: count * (losses / (hp.temperature * past + 1e-12)).softmax(0)  # noqa: E731
                drawn = torch.rand((), generator=task.rng, dtype=torch.float64)
                rho = float(drawn < hp.chance)
                new = rise(last)
                if "lambda" in state:
                    old = torch.stack(state["lambda"])
                    past = rho * old + (1 - rho) * rise(state["first"])
                    new = hp.keep * past + (1 - hp.keep) * new
            state["lambda"] = list(new)
            state["names"] = list(task.last_terms)
        else:
            state["first"] = losses
        state["last"] = losses
