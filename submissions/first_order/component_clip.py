"""Component-wise gradient norm clipping: AdamW with each tensor's gradient clipped.

Yang and Ma, "Improving Stability of Fine-Tuning Pretrained Language Models via Component-Wise
Gradient Norm Clipping", arXiv 2210.10325.

    ĝ = g·min(1, c/‖g‖) for each tensor;  AdamW on ĝ

State: AdamW's m and v, two words per parameter; the step.
Departures from the paper: components are parameter tensors, as in the authors' code, which also
adds 1e-6 to the norm.
"""

from harness import ops
from submissions.first_order import adamw

SPACE = {**adamw.SPACE, "clip": {"log": [1e-3, 1.0]}}
init = adamw.init


def update(params, grads, state, hp, progress):
    clipped = [g * ops.clip_factor([g], hp.clip) for g in grads]
    adamw.update(params, clipped, state, hp, progress)
