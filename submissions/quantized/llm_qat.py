"""LLM-QAT: rounded weights are trained to give the outputs of the unrounded model, without labels.

Liu et al., "LLM-QAT: Data-Free Quantization Aware Training for Large Language Models",
arXiv 2305.17888.

    s = max|w|/(2^(b-1) - 1) of a row, W' = s·round(W/s), ∂L/∂W ← ∂L/∂W'
    L = mean KL(p‖q), p the outputs of the pretrained model, q ours

State: the pretrained weights, one word per parameter; AdamW's two words per parameter.
Departures from the paper: the text is the workload's; the paper lets the model write it. Weights
only, activations stay in float32.
"""

import torch

from harness import surgery
from submissions.first_order import adamw
from submissions.quantized import int8_ste
from submissions.sparse import distil

TRACKS = ["compress"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [1e-4, 3e-3]},
    "wd": 0.0,
    "beta2": 0.99,
    "bits": {"int": [2, 8], "default": 4, "goal": "bits"},
    "kind": "forward",
    "weight": 1.0,
    "temperature": 1.0,
    "delta": 1.0,
}
SKIPS = {"descends": "it follows the outputs of the pretrained model, not the labels"}


class Switched(int8_ste.Rounded):
    """Rounded weights; unrounded while `exact`."""

    exact = False

    def dense(self):
        return self.weight if self.exact else super().dense()


def adapt(model, task, hp):
    surgery.replace(model, lambda linear: Switched(linear, hp.bits))


class Algorithm(distil.Algorithm):
    labels = False

    def compress(self):
        self.maps = list(surgery.matrices(self.task.model).values())

    @torch.no_grad()
    def swap(self, values, teaching):
        super().swap(values, teaching)
        for m in self.maps:
            m.exact = teaching
