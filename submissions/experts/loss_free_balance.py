"""Loss-free balance: a bias on each expert's score follows its load; no loss term is added.

Wang et al., "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts", arXiv 2408.15664;
diminishing steps: Han and Zhong, arXiv 2512.03915.

    experts are chosen by σ(u_e·x) + b_e;  after each step  b_e ← b_e + rate·e(mean load − load_e)
    sign: e = sign, constant;  proportional: e the difference over the mean;  diminishing: e = sign,
    rate/√t
    AdamW's step

State: AdamW's m and v, two words per parameter; b is the model's own.
Departures from the paper: the load is that of the step's batch alone, as in the authors' code.
"""

import torch

from harness import ops, surgery
from submissions.first_order import adamw

SPACE = {
    **adamw.SPACE,
    "rate": {"log": [1e-4, 1e-1], "default": 3e-3},
    "error": {"choice": ["sign", "proportional", "diminishing"]},
}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp
        self.state, self.routers = adamw.init(task.params, hp), surgery.routers(task.model)

    def step(self):
        task, hp = self.task, self.hp
        loss = task.forward_backward(task.next_batch())
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        rate = hp.rate / (task.step + 1) ** 0.5 if hp.error == "diminishing" else hp.rate
        for router in self.routers:
            load = router.load.to(router.bias)
            short = load.mean() - load
            short = short / load.mean() if hp.error == "proportional" else torch.sign(short)
            router.bias.add_(short, alpha=rate)
        return loss

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state
