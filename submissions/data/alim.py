"""ALIM: AdamW on labels that the model picks among candidates, and outside where it must.

Xu et al., "ALIM: Adjusting Label Importance Mechanism for Noisy Partial Label Learning",
arXiv 2301.12077.

    w_i: uniform on the set S_i at first;  loss = −Σ_c w_ic·log p_ic
    v = p∘(S + λ(1 − S));  w ← m·w + (1 − m)·v', v' the one-hot of argmax v, from the second epoch
    on, m falling from 0.95 to 0.8;  λ = the `noise` quantile of max(p∘S)/max(p∘(1 − S)) over an
    epoch, at most 1, and 0 in the first 0.08 of the budget

`noise` is the assumed share of sets without the truth. A trial of `alim` may draw another target;
`alim_one_hot` has the paper's. Variants: `proden` has v' = v/Σv with λ = 0
and m = 0 at every visit (Lv et al., arXiv 2002.08053); `cc` descends −log Σ_{c ∈ S} p_c instead
(Feng et al., arXiv 2007.08929).
State: AdamW's m and v, two words per parameter; w, one word per example and class.
Departures from the paper: no contrastive term and no mixup. A step uses the w of the visit before.
"""

import torch

from harness import ops
from harness.batch import part
from submissions.first_order import adamw

SPACE = {
    **adamw.SPACE,
    "target": {"choice": ["one_hot", "scaled", "union"]},
    "noise": {"linear": [0.0, 0.5], "default": 0.2},
    "first": {"linear": [0.0, 0.99], "default": 0.95},
    "last": {"linear": [0.0, 0.99], "default": 0.8},
    "waiting": {"int": [0, 5], "default": 1},
}
VARIANTS = {
    "alim_one_hot": {"target": "one_hot"},
    "proden": {"target": "scaled", "noise": 0.0, "first": 0.0, "last": 0.0, "waiting": 0},
    "cc": {"target": "union", "noise": 0.0, "first": 0.0, "last": 0.0, "waiting": 0},
}
# Share of the budget in which nothing outside of the set is believed.
INSIDE = 0.08


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state = adamw.init(task.params, hp)
        self.labels = {"w": torch.empty(0), "ratio": torch.ones(task.examples), "outside": 0.0}
        self.labels["epoch"] = 0

    def step(self):
        task, index = self.task, self.task.next_index()
        batch, labels = task.gather(index), self.labels
        among = part(batch, "candidates").to(task.params[0])
        if not len(labels["w"]):
            labels["w"] = torch.zeros(task.examples, among.shape[1], dtype=among.dtype)
        known = labels["w"][index].to(among)
        fresh = known.sum(dim=1, keepdim=True) == 0
        target = torch.where(fresh, among / among.sum(dim=1, keepdim=True), known)
        beliefs = []

        def loss(*_):
            log = task.logits(batch).log_softmax(dim=1)
            beliefs.append(log.detach().exp())
            if self.hp.target == "union":
                return -(log.masked_fill(among == 0, -torch.inf)).logsumexp(dim=1).mean()
            return -(target * log).sum(dim=1).mean()

        value = task.backward(batch, loss)
        self.believe(index, among, target, beliefs[0])
        ops.apply(adamw.update, task.params, self.state, self.hp, task.progress)
        return value

    def believe(self, index, among, target, p):
        """Move the targets of these examples towards what the model believes."""
        hp, labels, task = self.hp, self.labels, self.task
        epoch = task.step * task.batch_size // task.examples
        if epoch > labels["epoch"]:
            labels["epoch"] = epoch
            if hp.noise and task.progress > INSIDE:
                labels["outside"] = min(1.0, float(labels["ratio"].quantile(hp.noise)))
        rest = (p * (1 - among)).amax(dim=1)
        labels["ratio"][index] = ((p * among).amax(dim=1) / (rest + 1e-9)).float().cpu()
        v = p * (among + labels["outside"] * (1 - among))
        if hp.target == "one_hot":
            v = torch.nn.functional.one_hot(v.argmax(dim=1), v.shape[1]).to(v)
        else:
            v = v / v.sum(dim=1, keepdim=True)
        share = hp.first + (hp.last - hp.first) * task.progress if epoch >= hp.waiting else 1.0
        labels["w"][index] = (share * target + (1 - share) * v).to(labels["w"])

    def state_dict(self):
        return {"adam": self.state, "labels": self.labels}

    def load_state_dict(self, state):
        self.state, self.labels = state["adam"], state["labels"]
