"""Lookahead: AdamW that is pulled back half-way to slow weights every few steps.

Zhang et al., "Lookahead Optimizer: k Steps Forward, 1 Step Back", arXiv 1907.08610, Algorithm 1.

    AdamW steps on p;  after every k of them  slow ← slow + α(p − slow);  p ← slow

Evaluation uses the slow weights.
State: AdamW's m and v and the slow weights, three words per parameter; the step.
Departures from the paper: none; the moments are kept when p is pulled back.
"""

import torch

from harness import ops
from submissions.first_order import adamw

ELEMENTWISE = True
SPACE = {**adamw.SPACE, "k": {"int": [4, 12], "default": 5}, "alpha": {"choice": [0.5, 0.8]}}


def init(params, hp):
    return adamw.init(params, hp) | {"slow": ops.copies(params)}


def update(params, grads, state, hp, progress):
    adamw.update(params, grads, state, hp, progress)
    if state["step"] % hp.k == 0:
        torch._foreach_lerp_(state["slow"], params, hp.alpha)
        torch._foreach_copy_(params, state["slow"])


def evaluate_view(params, state):
    return list(state["slow"])
