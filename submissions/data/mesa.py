"""MESA: AdamW with a penalty on the distance to the predictions of averaged weights.

Du, Zhou, Feng, Tan and Zhou, "Sharpness-Aware Training for Free", arXiv 2205.14083, Section 3.3.

    loss = cross entropy + λ·T²·mean KL(softmax(z̄/T) ‖ softmax(z/T)),  z̄ the logits of w̄
    w̄ ← γ·w̄ + (1 − γ)·w after each step,  γ = 1 − 1/(span·horizon)

The penalty begins after the share `begin` of the horizon. It costs a forward pass.

State: AdamW's m and v, and w̄, three words per parameter.
Departures from the paper: γ depends on the horizon, because the paper's 0.9998 would keep w̄ near
its start in short runs; each label must be a single class.
"""

import torch
import torch.nn.functional as F

from harness import ops
from harness.batch import labels
from submissions.data.saf import divergence
from submissions.first_order import adamw

PASSES = {"forward_backward": 1, "forward": 0.7}
SPACE = {
    **adamw.SPACE,
    "strength": {"linear": [0.1, 0.9], "default": 0.3},
    "span": {"log": [5e-3, 0.1]},
    "temperature": 5.0,
    "begin": 0.3,
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp) | {"average": ops.copies(task.params)}

    def step(self):
        task, hp, state, batch = self.task, self.hp, self.state, self.task.next_batch()
        late = task.progress >= hp.begin
        past = task.logits_of(state["average"], batch) if late else None

        def loss(model, batch):
            z = task.logits(batch)
            nats = F.cross_entropy(z, labels(batch))
            return nats + hp.strength * divergence(past, z, hp.temperature).mean() if late else nats

        value = task.backward(batch, loss)
        moments = {key: state[key] for key in ("m", "v", "step")}
        ops.apply(adamw.update, task.params, moments, hp, task.progress)
        state["step"] = moments["step"]
        fresh = min(1.0, 1.0 / (hp.span * task.horizon))
        torch._foreach_lerp_(state["average"], [p.data for p in task.params], fresh)
        return value

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
