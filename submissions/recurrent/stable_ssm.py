"""StableSSM: rates of a recurrence are a function of a weight, and cannot leave the stable side.

Wang and Li, "StableSSM: Alleviating the Curse of Memory in State-space Models through Stable
Reparameterization", arXiv 2311.14495.

    rate = −f(w);  "best": f = 1/(w² + 0.1), whose slope is as f² for every rate;  "exp": f = eʷ;
    "softplus": f = log(1 + eʷ);  "direct": f = w
    w starts where f(w) is the model's own rate; AdamW without decay trains w

State: AdamW's two words per parameter.
Departures from the paper: none known; the constants 1 and 0.1 are those of the authors' kernel, as
is the start of w. They were not compared with the paper's text.
"""

import torch
from torch import nn
from torch.nn.utils import parametrize

from harness import surgery

BASE = "adamw"
SPACE = {
    "base_lr": {"log": [1e-3, 0.1], "default": 0.01},
    "base_wd": 0.0,
    "kind": {"choice": ["best", "exp", "softplus", "direct"], "tuned": False},
}
VARIANTS = {"ssm_exp": {"kind": "exp"}, "ssm_softplus": {"kind": "softplus"}}
OFFSET = 0.1


class Rate(nn.Module):
    """w to −f(w), and back."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, w):
        if self.kind == "best":
            return -1 / (w.square() + OFFSET)
        return -{"exp": torch.exp, "softplus": nn.functional.softplus}.get(self.kind, same)(w)

    def right_inverse(self, rate):
        f = -rate
        if self.kind == "best":
            return (1 / f - OFFSET).sqrt()
        return {"exp": torch.log, "softplus": lambda f: f.expm1().log()}.get(self.kind, same)(f)


def same(w):
    return w


def adapt(model, task, hp):
    for module in surgery.recurrences(model):
        parametrize.register_parametrization(module, "rate", Rate(hp.kind))


def export(model):
    """Return the workload's own tensors: rates in place of the weights that they follow from."""
    tensors = {n: t for n, t in surgery.export(model).items() if "parametrizations" not in n}
    names = {id(m): n for n, m in model.named_modules()}
    for module in surgery.recurrences(model):
        prefix = names[id(module)]
        tensors[f"{prefix}.rate" if prefix else "rate"] = module.rate.detach()
    return tensors
