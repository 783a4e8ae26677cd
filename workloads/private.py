"""Private training: accuracy within a bound on ε, which the referee computes from recorded noise.

    mini    an MLP 784-32-32-10 on 4,000 MNIST digits, 26,506 parameters

`task.private_gradient(clip, noise)` is the one way to train with a finite ε. The task draws each
digit into the sample with probability 0.05, clips the gradient of each to norm C, adds noise of
standard deviation σ·C to their sum, divides by the expected size of the sample, and records σ. The
referee computes ε at δ = 1e-4 from these records (harness/train/privacy.py). Any other use of the
training data, also a look at an input, is `exposed`, and ε is then 1,000,000: a plain optimizer
runs, and misses the goal. Licence: MNIST states none.

300 calls at σ = 1.5 spend ε = 2.75, at σ = 2 1.82, at σ = 3 1.09. Variants: `linear` has no hidden
layer, because fewer parameters need less noise; `strict` asks for ε of at most 1.

Measured at mini with one seed and σ for ε = 3, the best accuracy: private_sgd 0.885,
automatic_clipping 0.884, dp_adamw 0.857 with lr 3e-3 and 0.884 with 6e-3; adamw 0.942 without any
bound on ε.

Goal at mini: the accuracy of the tuned reference, private_sgd, at three tenths of the budget, rule
`share` of conf/targets.yaml; ε is stated. Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

from torch import Tensor

from workloads.data.recognition import digits
from workloads.models.recognising import (
    batch,
    features,
    inputs,
    logits,
    loss,
    losses,
    metric,
    model,
    nats,
    sample,
    score,
    size,
)

__all__ = [
    "batch",
    "data",
    "features",
    "inputs",
    "logits",
    "loss",
    "losses",
    "metric",
    "model",
    "nats",
    "sample",
    "score",
    "size",
]


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return images uint8 [N, 784] and labels int64 [N]."""
    images, labels = digits(split)
    return {"images": images, "labels": labels}
