"""Robust losses: AdamW on a loss that trusts wrong labels, or easy examples, less.

    gce              (1 − p_y^q)/q; Zhang and Sabuncu, arXiv 1805.07836
    sce              α·(−log p_y) + Σ_{c ≠ y} 4·p_c; Wang et al., arXiv 1908.06112: the second part
                     is the cross entropy of the label under the prediction, with log 0 = −4
    label_smoothing  (1 − ε)(−log p_y) + ε·mean_c(−log p_c); Szegedy et al., arXiv 1512.00567
    focal            (1 − p_y)^γ·(−log p_y); Lin et al., arXiv 1708.02002

`strength` is q, α, ε or γ. It acts on every token where an example has several.
State: AdamW's m and v, two words per parameter.
Departures from the paper: gce is not truncated and prunes no examples; focal has no class weights.
"""

import torch.nn.functional as F

from harness import ops
from harness.batch import part
from submissions.first_order import adamw

SPACE = {
    **adamw.SPACE,
    "kind": {"choice": ["gce", "sce", "label_smoothing", "focal"]},
    "strength": {"linear": [0.0, 3.0], "default": 0.7},
}
VARIANTS = {
    "gce": {"kind": "gce", "strength": 0.7},
    "sce": {"kind": "sce", "strength": 0.1},
    "label_smoothing": {"kind": "label_smoothing", "strength": 0.1},
    "focal": {"kind": "focal", "strength": 2.0},
}
# The logarithm of 0 in sce, negated.
SURPRISE = 4.0


def loss_of(logits, targets, kind, strength):
    """Return the mean loss of scores [N, C] against classes [N]."""
    nats = F.cross_entropy(logits, targets, reduction="none")
    if kind == "gce":
        # As q goes to 0 this is the cross entropy.
        return (-(-strength * nats).expm1() / strength if strength else nats).mean()
    if kind == "sce":
        return (strength * nats + SURPRISE * -(-nats).expm1()).mean()
    if kind == "label_smoothing":
        return F.cross_entropy(logits, targets, label_smoothing=min(strength, 1.0))
    return ((-(-nats).expm1()).clamp(min=1e-7) ** strength * nats).mean()


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)

    def step(self):
        task, hp = self.task, self.hp

        def loss(model, batch):
            logits = task.logits(batch)
            flat = logits.reshape(-1, logits.shape[-1])
            return loss_of(flat, part(batch, "targets").reshape(-1), hp.kind, hp.strength)

        value = task.backward(task.next_batch(), loss)
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return value

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
