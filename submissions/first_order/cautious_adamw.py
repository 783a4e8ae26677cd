"""Cautious AdamW: AdamW that moves only the elements whose step agrees with the gradient.

Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", arXiv 2411.16085.

    u = AdamW's step without decay;  p ← p(1 − lr·wd) + s·[u·g < 0]·u
    for each tensor of d elements s = 1/max(kept/d, 1e-3) (scale "mean") or d/(kept + 1) ("paper")

State: m and v, two words per parameter; the step.
Departures from the paper: none with scale "paper"; "mean" is the authors' later C-AdamW.
"""

from harness import ops
from submissions.first_order import adamw

SPACE = {**adamw.SPACE, "scale": {"choice": ["mean", "paper"]}}
init = adamw.init


def update(params, grads, state, hp, progress):
    ops.cautious(adamw.update, hp.scale)(params, grads, state, hp, progress)
