"""Trusted ASHA: ASHA that ranks its runs by the loss on trusted examples.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", arXiv 1810.05934, Algorithm 2.

    jobs and rungs of `asha`; training and fitness of `trusted_hyperband`

State: as `asha`.
Departures from the paper: as in `asha`; the workload needs trusted examples (`clean`).
"""

from submissions.first_order import adamw
from submissions.tuners import asha, trusted_hyperband

PASSES = {"forward_backward": 1, "forward": 0.25}
SPACE = {**adamw.SPACE, "spread": {"log": [3.0, 30.0]}}
SKIPS = {"passes": "a rung of a short run has one or two steps, and each is the last quarter"}


class Algorithm(asha.Algorithm, trusted_hyperband.Algorithm):
    """Steps of `asha`; `train` of `trusted_hyperband`."""
