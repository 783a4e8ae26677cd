"""Consensus-based optimisation: particles drift to a weighted mean of the best, and diffuse.

Pinnau, Totzeck, Tse and Martin, arXiv 1604.05648; anisotropic noise: Carrillo, Jin, Li and Zhu,
arXiv 1909.09249; analysed in arXiv 2306.09778.

    c = Σ x·exp(−α·f(x))/Σ exp(−α·f(x)) over the particles, f on one batch
    x ← x − λ·dt·(x − c) + σ·√dt·|x − c|⊙ξ  (anisotropic)  or  σ·√dt·‖x − c‖·ξ  (isotropic)

The weights are c. Particles start around the model's start, N(0, width²) from it; α grows by `heat`
in each step.

State: the particles, 20 words per parameter; c; α.
Departures from the paper: 20 particles, a constant of the file, decide the price.
"""

import torch

from harness.errors import UserError

PARTICLES = 20
PASSES = {"forward": 20}
# Parameters of a model beyond which so few particles say nothing.
LARGEST = 10_000
SPACE = {
    "dt": {"log": [1e-3, 0.3], "default": 0.1},
    "sigma": {"log": [0.1, 5.0], "default": 0.3},
    "alpha": {"log": [1.0, 1e3], "default": 100.0},
    "heat": {"choice": [1.0, 1.01, 1.05]},
    "width": {"log": [0.01, 3.0], "default": 0.1},
    "anisotropic": True,
}
# The noise of each coordinate is that of the whole distance, so it must be smaller.
VARIANTS = {"cbo_isotropic": {"anisotropic": False, "sigma": 0.1, "width": 0.02}}
# α beyond which the weights are those of the best particle alone.
HOTTEST = 1e15


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.sizes = [p.numel() for p in task.params]
        if sum(self.sizes) > LARGEST:
            raise UserError(
                f"cbo is for up to {LARGEST:,} parameters; this model has {sum(self.sizes):,}",
                "a smaller model",
                "harness list workloads",
            )
        start = torch.cat([p.detach().flatten() for p in task.params])
        drawn = torch.randn(PARTICLES, len(start), generator=task.rng, dtype=torch.float64)
        self.particles = start + hp.width * drawn.to(start)
        self.centre, self.alpha = start.clone(), hp.alpha

    @torch.no_grad()
    def put(self, values):
        """Make the model that of one vector."""
        for p, part in zip(self.task.params, values.split(self.sizes)):
            p.copy_(part.view_as(p))

    @torch.no_grad()
    def step(self):
        task, hp, batch = self.task, self.hp, self.task.next_batch()
        losses = []
        for x in self.particles:
            self.put(x)
            losses.append(task.forward(batch))
        values = torch.stack(losses)
        share = (-self.alpha * values.double()).softmax(0).to(self.particles)
        self.centre = share @ self.particles
        away = self.particles - self.centre
        noise = torch.randn(away.shape, generator=task.rng, dtype=torch.float64).to(away)
        reach = away.abs() if hp.anisotropic else away.norm(dim=1, keepdim=True)
        self.particles = self.particles - hp.dt * away + hp.sigma * hp.dt**0.5 * reach * noise
        self.alpha = min(self.alpha * hp.heat, HOTTEST)
        self.put(self.centre)
        return values.mean()

    def state_dict(self):
        return {"particles": self.particles, "centre": self.centre, "alpha": self.alpha}

    def load_state_dict(self, state):
        self.particles, self.centre = state["particles"], state["centre"]
        self.alpha = state["alpha"]
