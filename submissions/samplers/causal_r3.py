"""Causal R3: R3 with a gate that opens in time order as the earlier residuals fall.

Daw, Bu, Wang, Perdikaris, Karpatne, arXiv 2207.02338.

    g = (1 - tanh(5(τ - c)))/2, τ the time scaled to [0, 1];  loss: mean (g·r)²;  R3 with F = g·|r|
    c ← c + rate·min(exp(-20·mean F²), 0.1), from -0.5

State: AdamW's m and v, two words per parameter; the step; the points; c.
Departures from the paper: τ is the last coordinate, whether or not it is time; `rate` lets the gate
open within 1/`speed` of the horizon at the earliest; AdamW with warm-up and cosine decay.
"""

import math

import torch

from submissions.samplers import r3, uniform

SPACE = {**uniform.SPACE, "speed": {"log": [1.0, 20.0], "default": 4.0}, "tolerance": 20.0}


def gate(times, c):
    """Return the weight of each time, in [0, 1]."""
    return (1 - torch.tanh(5 * (times - c))) / 2


class Algorithm(uniform.Algorithm):
    def __init__(self, task, hp):
        super().__init__(task, hp)
        self.state["c"] = -0.5

    def weights(self, points):
        low, high = self.task.box[:, -1]
        return {"residual": gate((points[:, -1] - low) / (high - low), self.state["c"])}

    def observe(self, points, residuals):
        fitness = self.weights(points)["residual"] * residuals.abs()
        kept = r3.retained(fitness)[:, None]
        self.state["points"] = torch.where(kept, points, uniform.draw(self.task, len(points)))
        open_ = min(math.exp(-self.hp.tolerance * float(fitness.square().mean())), 0.1)
        self.state["c"] += 2 * self.hp.speed / self.task.horizon * open_ / 0.1
