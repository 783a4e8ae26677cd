"""SGD with momentum, heavy-ball or Nesterov, and weight decay added to the gradient.

Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013.

    g ← g + wd·p;  b ← momentum·b + g;  u = g + momentum·b (nesterov) or b;  p ← p − lr·u

State: b, one word per parameter.
Departures from the paper: lr stays outside the buffer, as in torch.optim.SGD.
"""

from harness import ops
from harness.schedules import warmup_cosine

ELEMENTWISE = True
SPACE = {
    "lr": {"log": [0.03, 1.0]},
    "momentum": {"choice": [0.9, 0.95, 0.99]},
    "nesterov": {"choice": [True, False]},
    "wd": {"log": [1e-6, 1e-3]},
    "warmup": 0.05,
}


VARIANTS = {"heavy_ball": {"nesterov": False}, "nesterov": {"nesterov": True}}


def init(params, hp):
    return {"b": ops.zeros(params)}


def update(params, grads, state, hp, progress):
    lr = hp.lr * warmup_cosine(progress, hp.warmup)
    ops.sgd_(params, grads, lr, hp.wd, hp.momentum, state["b"], hp.nesterov)
