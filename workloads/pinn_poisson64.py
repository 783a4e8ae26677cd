"""Physics-informed network in float64: Poisson's equation, to the accuracy of the literature.

    -Δu = 2π²·amplitude·sin πx·sin πy on [0, 1]²,  u = 0 on the edge

    mini    amplitude 1, 2 x 16 tanh units, 337 parameters, 900 points a step

The problem is pinn_poisson's; weights, points and derivatives are float64. Müller and Zeinhofer,
arXiv 2302.13163, reach errors far below 1e-4 on it with natural gradients, and Urbán, Stefanou and
Pons, arXiv 2405.04230, with quasi-Newton methods. The loss of such a solution is below float32's
rounding. The network is small, so that a dense matrix of its parameters fits.

Relative errors that were seen, at the defaults of SPACE: ssbroyden 5.4e-6, 6.4e-6 and 6.5e-6 after
1,000 steps, seeds 0 to 2, about 12 CPU seconds each; of seed 0 alone ssbroyden 3.2e-6 after 1,500
steps, lbfgs 7.7e-3 after 1,500, and in variant few_points engd 4.5e-5 after 80 and
levenberg_marquardt 6.1e-4 after 120. nncg was not tried. With all
points levenberg_marquardt made fewer than 25 steps in 30 seconds of a busy core. The commands:

    python benches/pinn_accuracy.py pinn_poisson64 ssbroyden --steps 1000
    python benches/pinn_accuracy.py pinn_poisson64 lbfgs --steps 1500 --seeds 1
    python benches/pinn_accuracy.py pinn_poisson64 engd --variant few_points --steps 80 --seeds 1

Data: collocation points drawn from the trial's seed; no licence is needed. The goal is provisional:
no campaign has set it. Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

import numpy as np
from torch import Tensor, nn

from workloads import pinn_poisson as base
from workloads.pde import collocation, double, exact
from workloads.pde.collocation import batch, line, metric, score, size, spread
from workloads.pde.double import batch_of

__all__ = ["batch", "batch_of", "metric", "score", "size"]

box = base.box
loss = base.loss
losses = base.losses
terms = base.terms


def data(config: SimpleNamespace, split: str, seed: int) -> dict[str, Tensor]:
    """Return the data of a split, as workloads.pde.collocation describes it, in float64."""
    amplitude, _ = collocation.draw(config, seed, config.data.amplitude)
    if split == "val":
        return double.hidden(config, box(config), lambda x, y: exact.poisson(x, y, amplitude))
    s = spread(0, 1, config.data.boundary)
    edge = np.concatenate([line(s, 0.0), line(s, 1.0), line(0.0, s), line(1.0, s)])
    return double.training(base.data(config, split, seed), amplitude, boundary=edge)


def model(config: SimpleNamespace) -> nn.Module:
    return base.model(config).double()
