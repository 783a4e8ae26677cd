"""Balanced terms: weights of a PINN's loss terms that even out their gradients.

Wang, Teng, Perdikaris, "Understanding and mitigating gradient pathologies in physics-informed
neural networks", arXiv 2001.04536; Wang, Yu, Perdikaris, arXiv 2007.14527 (NTK).

    L = Σ_i w_i·mean r_i²;  every `every` steps  w_i ← keep·w_i + (1 − keep)·ŵ_i, from 1, where
    grad_norm: ŵ_i = mean_j ‖g_j‖ / ‖g_i‖, g_i the gradient of term i
    annealing: ŵ_i = max |g_residual| / mean |g_i| for the conditions, 1 for the residual
    ntk: ŵ_i = mean_j K_j / K_i, K_i the mean over term i's points of ‖∂r_i(x)/∂θ‖²
    a term without a gradient, such as an inequality that holds, keeps its weight and is in no mean

State: uniform's; a weight for each term.
Departures from the paper: the weights multiply those that the workload has; K_i is estimated with
one vector of random signs, mean ‖∂r_i‖² = E‖Jᵢᵀs‖²/n; AdamW on new points in every step. The paper
has no term without a gradient.
"""

import torch

from harness import ops
from submissions.samplers import uniform

PASSES = {"forward_backward": 1.04, "vjp": 0.04, "forward": 0.01}  # for four terms
SPACE = {
    **uniform.SPACE,
    "rule": {"choice": ["grad_norm", "annealing", "ntk"], "tuned": False},
    "every": {"choice": [100, 1000]},
    "keep": 0.9,
}
VARIANTS = {"annealed_terms": {"rule": "annealing"}, "ntk_terms": {"rule": "ntk"}}


def wanted(rule, sizes):
    """Return ŵ by name from (norm, largest, mean) of each term's gradient, or from K.

    A term without a gradient has none.
    """
    sizes = {n: s for n, s in sizes.items() if s[0] > 0}
    if rule == "annealing":
        if "residual" not in sizes:
            return {}
        return {n: 1.0 if n == "residual" else sizes["residual"][1] / s[2]
                for n, s in sizes.items()}  # fmt: skip
    values = {n: s[0] for n, s in sizes.items()}
    mean = sum(values.values()) / max(len(values), 1)
    return {n: mean / v for n, v in values.items()}


class Algorithm(uniform.Algorithm):
    def weights(self, points):
        task, hp = self.task, self.hp
        if task.step % hp.every == 0:
            sizes = self.sizes(task.batch_at(points))
            old = self.state.get("weights", dict.fromkeys(sizes, 1.0))
            new = old | wanted(hp.rule, sizes)
            self.state["weights"] = {n: hp.keep * old[n] + (1 - hp.keep) * new[n] for n in new}
        return {n: torch.tensor(w**0.5) for n, w in self.state["weights"].items()}

    def sizes(self, batch):
        """Return (norm, largest, mean) of the gradient of each term, or its K three times."""
        task = self.task
        if self.hp.rule != "ntk":
            return {
                name: (
                    ops.global_norm(grads),
                    float(max(g.abs().max() for g in grads)),
                    float(sum(g.abs().sum() for g in grads)) / sum(g.numel() for g in grads),
                )
                for name, grads in task.term_gradients(batch).items()
            }
        found, first = {}, 0
        lengths = {name: len(v) for name, v in task.terms(batch).items()}
        for name, count in lengths.items():
            signs = torch.zeros(sum(lengths.values()))
            drawn = torch.randint(2, (count,), generator=task.rng)
            signs[first : first + count] = 2.0 * drawn - 1
            first += count
            size = ops.global_norm(task.vjp(batch, signs.to(task.params[0]))) ** 2
            found[name] = (size, size, size)
        return found
