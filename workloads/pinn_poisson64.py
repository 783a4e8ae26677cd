"""Physics-informed network in float64: Poisson's equation, to the accuracy of the literature.

    -Δu = 2π²·amplitude·sin πx·sin πy on [0, 1]²,  u = 0 on the edge

    mini    amplitude 1, 2 x 16 tanh units, 337 parameters, 900 points a step

The problem is pinn_poisson's; weights, points and derivatives are float64. Müller and Zeinhofer,
arXiv 2302.13163, reach errors far below 1e-4 on it with natural gradients, and Urbán, Stefanou and
Pons, arXiv 2405.04230, with quasi-Newton methods. The loss of such a solution is below float32's
rounding. The network is small, so that a dense matrix of its parameters fits.

Which second-order methods solve it, with tuned points and fresh seeds, is in the table of
docs/workloads/pinn.md. How far a method comes in a given number of steps:

    python benches/pinn_accuracy.py pinn_poisson64 ssbroyden --steps 1000

Data: collocation points drawn from the trial's seed; no licence is needed. Goal at mini: 1e-5, a
tenth of what the literature calls solved; the horizon is such that the tuned reference, ssbroyden,
needs half of it. Budget: `horizon` reference steps.
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
