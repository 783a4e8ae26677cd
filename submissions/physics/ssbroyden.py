"""SSBroyden: a self-scaled quasi-Newton method of Broyden's family, with a dense inverse Hessian.

Urbán, Stefanou, Pons, "Unveiling the optimization process of physics informed neural networks: How
accurate and competitive can PINNs be?", arXiv 2405.04230, their second variant.

    d = −H·g;  τ by a search for Wolfe's conditions;  s = τ·d, y = g' − g, ρ = 1/(yᵀs)
    b = −τ·ρ·sᵀg, h = ρ·yᵀHy, a = b·h − 1, r⁻ = min(1, h(1 − √(|a|/(1 + a)))), θ⁻ = (r⁻ − 1)/a,
    θ = max(θ⁻, min(1/r⁻, (1 − b)/b)), σ = 1 + θ·a, q = |σ|^{1/(1 − N)},
    t = min(1, 1/b)·min(q, 1/θ) if θ > 0, else min(min(1, 1/b)·q, σ);  at first t = h/(1 + a·θ)
    φ = (1 − θ)/(1 + a·θ), v = ρ·s − Hy/yᵀHy
    H ← (H − Hy·yᵀH/yᵀHy + φ·yᵀHy·v·vᵀ)/t + ρ·s·sᵀ
    every `hold` steps: new points by rad's density (arXiv 2207.10289), H stays

State: H, N² numbers in float64 for N parameters; the points.
Departures from the paper: a bisection of at most eight gradients in place of their line search, and
of fewer where three gradients a step over the whole run are spent, which rounding brings about; H
is begun anew when it gives no descent or no step, with a first step of length 1 or, after a search
without success, 2⁻⁸ of the last; gradients in the model's precision; no phase of Adam before.
"""

import torch

from harness import ops
from harness.errors import UserError
from submissions.physics import levenberg_marquardt
from submissions.samplers import rad, uniform
from submissions.second_order.lbfgs import flat

PASSES = {"forward_backward": 3, "forward@batch=20": 0.005}
SPACE = {
    "hold": {"choice": [200, 50, 500]},
    "k": 1.0,
    "c": 1.0,
    "armijo": 1e-4,
    "wolfe": 0.9,
}
LARGEST, TRIED = 4000, 8


def updated(h, s, y, g, rate, first):
    """Return the next inverse Hessian; g is the gradient before the step s = rate·d."""
    rho, hy = 1 / (y @ s), h @ y
    square = y @ hy
    b, c = -rate * rho * (s @ g), rho * square
    a = b * c - 1
    low = min(1.0, float(c * (1 - (a.abs() / (1 + a)).sqrt())))
    down, up = (low - 1) / a, 1 / low if low else torch.inf
    theta = torch.maximum(down, torch.clamp((1 - b) / b, max=up))
    sigma, scale = 1 + theta * a, torch.clamp(1 / b, max=1.0)
    power = sigma.abs() ** (1 / (1 - len(s)))
    if first:
        t = c / sigma
    elif theta > 0:
        t = scale * torch.minimum(power, 1 / theta)
    else:
        t = torch.minimum(scale * power, sigma)
    v = rho * s - hy / square
    kept = h - torch.outer(hy, hy) / square + (1 - theta) / sigma * square * torch.outer(v, v)
    return kept / t + rho * torch.outer(s, s)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.size = sum(p.numel() for p in task.params)
        if self.size > LARGEST:
            raise UserError(
                f"ssbroyden keeps the square of {self.size} parameters",
                f"at most {LARGEST}",
                "variant=small",
            )
        points = uniform.draw(task, task.batch_size)
        self.state = {"points": points, "h": None, "reach": 1.0, "made": 0}

    def step(self):
        task, state = self.task, self.state
        if task.step and task.step % self.hp.hold == 0:
            state["points"] = rad.choose(task, task.batch_size, self.hp.k, self.hp.c)
        batch = task.batch_at(state["points"])
        loss = task.forward_backward(batch)
        state["made"] += 1
        g = flat(p.grad for p in task.params).double()
        first = state["h"] is None
        h = torch.eye(self.size, dtype=torch.float64) if first else state["h"]
        d = -(h @ g)
        if not d @ g < 0:
            h, d, first = torch.eye(self.size, dtype=torch.float64), -g, True
        whole = state["reach"] / float(g.norm()) if first else 1.0
        rate, after = self.search(batch, loss.double(), g, d, whole)
        s, y = rate * d, after - g
        # A search that finds no step would find none from the same H and size in the next step
        # either. New points at a shock need steps that are thousands of times shorter.
        state["h"] = h if rate else None
        state["reach"] = 1.0 if rate or not first else state["reach"] / 2**TRIED
        if y @ s > 1e-12 * y.norm() * s.norm():
            new = updated(h, s, y, g, rate, first)
            state["h"] = new if bool(torch.isfinite(new).all()) else None
        return loss

    def search(self, batch, loss, g, d, rate):
        """Move by a step that meets Wolfe's conditions, if one is found; return it and g there.

        It makes at least one gradient, and no more than what PASSES leave of all steps so far.
        """
        left = PASSES["forward_backward"] * (self.task.step + 1) - self.state["made"]
        task, hp, slope = self.task, self.hp, g @ d
        before, low, high = ops.copies(task.params), 0.0, float("inf")
        best = (0.0, g)
        for _ in range(min(TRIED, left)):
            self.state["made"] += 1
            torch._foreach_copy_([p.data for p in task.params], before)
            levenberg_marquardt.move_(task.params, d, rate)
            value = task.forward_backward(batch).double()
            after = flat(p.grad for p in task.params).double()
            if not value <= loss + hp.armijo * rate * slope:
                high = rate
            elif after @ d < hp.wolfe * slope:
                low, best = rate, (rate, after)
            else:
                return rate, after
            rate = 2 * low if high == float("inf") else (low + high) / 2
        torch._foreach_copy_([p.data for p in task.params], before)
        levenberg_marquardt.move_(task.params, d, best[0])
        return best

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
