"""Cautious Lion: Lion that moves only the elements whose step agrees with the gradient.

Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", arXiv 2411.16085.

    u = Lion's step without decay;  p ← p(1 − lr·wd) + s·[u·g < 0]·u
    for each tensor of d elements s = d/(kept + 1) (scale "paper") or 1/max(kept/d, 1e-3) ("mean")

State: m, one word per parameter.
Departures from the paper: none with scale "paper"; "mean" is the authors' later scaling.
"""

from harness import ops
from submissions.first_order import lion

SPACE = {**lion.SPACE, "scale": {"choice": ["paper", "mean"]}}
init = lion.init


def update(params, grads, state, hp, progress):
    ops.cautious(lion.update, hp.scale)(params, grads, state, hp, progress)
