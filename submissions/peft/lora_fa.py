"""LoRA-FA: LoRA with A frozen, so that a step keeps r numbers a token in place of the inputs.

Zhang et al., "LoRA-FA: Memory-efficient Low-rank Adaptation for Large Language Models Fine-tuning",
arXiv 2308.03303.

    W' = W + s·B·A, A random and frozen, B = 0;  g_B ← (1/s²)·g_B·(A·Aᵀ + 10⁻⁸·I)⁻¹, then AdamW

The projected gradient makes s·g_B·A the best approximation of ∇W by the rows of A.
State: AdamW's for B: r·out scalars a matrix.
Departures from the paper: none. The projection is in the authors' later version.
"""

import torch

from harness import surgery
from submissions.first_order import adamw
from submissions.peft import head_only, lora

TRACKS = ["finetune"]
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [1e-3, 5e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "head_lr": 5e-3,
    "rank": {"int": [1, 16], "default": 4},
    # Largest share of all parameters that may train: an upper bound on the rank.
    "share": {"linear": [0.0, 1.0], "default": 1.0, "goal": "trainable"},
    "alpha": 8.0,
}


def adapt(model, task, hp):
    surgery.freeze(model)
    rank = surgery.fitting(model, hp.rank, hp.share, lambda out, inputs, r: r * out)
    for m in surgery.replace(model, lambda linear: lora.LoRA(linear, rank, hp.alpha / rank)):
        m.get_parameter("A").requires_grad_(False)


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.trainer = task, head_only.Trainer(task, hp)
        self.maps = list(surgery.matrices(task.model).values())

    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        with torch.no_grad():
            for m in self.maps:
                gram = m.A @ m.A.T + 1e-8 * torch.eye(len(m.A)).to(m.A)
                m.B.grad.copy_(torch.linalg.solve(gram, m.B.grad.T).T / m.scale**2)
        self.trainer.update()
        return loss

    def state_dict(self):
        return self.trainer.state

    def load_state_dict(self, state):
        self.trainer.state = state
