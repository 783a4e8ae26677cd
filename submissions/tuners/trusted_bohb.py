"""Trusted BOHB: BOHB that ranks its runs by the loss on trusted examples.

Falkner, Klein and Hutter, "BOHB: Robust and Efficient Hyperparameter Optimization at Scale",
arXiv 1807.01774, Algorithms 1 and 2; its fitness is a loss on examples that do not train.

    rungs and proposals of `bohb`; training and fitness of `trusted_hyperband`

State: as `bohb`.
Departures from the paper: as in `bohb`; the workload needs trusted examples (`clean`).
"""

from submissions.first_order import adamw
from submissions.tuners import bohb, trusted_hyperband

PASSES = {"forward_backward": 1, "forward": 0.25}
SPACE = {**adamw.SPACE, "spread": {"log": [3.0, 30.0]}}
SKIPS = {"passes": "a rung of a short run has one or two steps, and each is the last quarter"}


class Algorithm(bohb.Algorithm, trusted_hyperband.Algorithm):
    """Points of `bohb`; `train` of `trusted_hyperband`, which bohb's own calls."""
