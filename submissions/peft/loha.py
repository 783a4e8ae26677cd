"""LoHa: the elementwise product of two low-rank products beside every frozen matrix.

Hyeon-Woo et al., "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated
Learning", arXiv 2108.06098; as an adapter: Yeh et al., "Navigating Text-To-Image Customization:
From LyCORIS Fine-Tuning to Model Evaluation", arXiv 2309.14859.

    W' = W + (α/r)·(B1·A1) ⊙ (B2·A2),  A [r, in], B [out, r];  rank up to r²
    B1, B2 ~ U(±1/√r), A1 ~ U(±1/√in), A2 = 0 at the start

State: AdamW's for the four factors: 2r(in + out) scalars a matrix.
Departures from the paper: LyCORIS starts from normal factors; these are the uniform ones of the
package peft. No dropout.
"""

from torch import nn

from harness import surgery
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [1e-3, 5e-2]},
    "rank": {"int": [1, 16], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
}


class LoHa(surgery.Adapted):
    def __init__(self, linear, rank, scale):
        super().__init__(linear)
        (out, inputs), new = self.weight.shape, self.weight.new_empty
        self.scale, b, a = scale, rank**-0.5, inputs**-0.5
        self.B1 = nn.Parameter(new(out, rank).uniform_(-b, b))
        self.A1 = nn.Parameter(new(rank, inputs).uniform_(-a, a))
        self.B2 = nn.Parameter(new(out, rank).uniform_(-b, b))
        self.A2 = nn.Parameter(self.weight.new_zeros(rank, inputs))

    def dense(self):
        return self.weight + self.scale * (self.B1 @ self.A1) * (self.B2 @ self.A2)


def size(out, inputs, rank):
    """Return how many scalars train for a matrix."""
    return 2 * rank * (out + inputs)


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, size)
    surgery.replace(model, lambda linear: LoHa(linear, rank, hp.alpha / rank))
