"""InstaTune: four nested sub-networks a step, all of which learn from the pretrained network.

Sridhar et al., "InstaTune: Instantaneous Neural Architecture Search During Fine-Tuning",
arXiv 2308.15609; teacher "largest" and a delay: DεpS, Annavajjala et al., "DεpS: Delayed
ε-Shrinking for Faster Once-For-All Training", arXiv 2407.06167.

    a sub-network of share k has the first ⌈k·n⌉ heads and neurons of every block
    per step: the whole, the smallest, and two with k uniform in {smallest, smallest + 1/8, ..., 1}
    teacher "pretrained": the gradient of the four losses plus KL(pretrained‖sub-network), added up
    teacher "largest": that of the whole's loss, plus ε·KL(whole‖sub-network) of the other three
    before `delay` of the horizon the whole trains alone;  ε rises from 0 to 1 over the next `rise`

State: AdamW's two words per parameter; the pretrained weights where they teach.
Departures from the paper: sub-networks by heads and neurons, not by depth. The weight of the KL
term, and how DεpS raises its sub-networks' rates, could not be read; ε is ours. The evolutionary
search for sub-networks trains nothing and is left out. The pretrained network's pass is charged by
its seconds.
"""

import torch
import torch.nn.functional as F
from torch.func import functional_call

from harness import ops
from submissions.first_order import adamw
from submissions.sparse import distil, sortednet

TRACKS = ["compress"]
PASSES = {"forward_backward": 4}
SPACE = {
    **adamw.SPACE,
    "lr": {"log": [3e-4, 1e-2]},
    "wd": 0.0,
    "beta2": 0.99,
    "smallest": 0.5,
    "teacher": {"choice": ["pretrained", "largest"], "tuned": False},
    "delay": {"linear": [0.0, 0.8], "default": 0.0, "tuned": False},
    "rise": 0.2,
}
VARIANTS = {"deps": {"teacher": "largest", "delay": 0.5}}

adapt = sortednet.adapt


class Algorithm(sortednet.Algorithm):
    def __init__(self, task, hp):
        super().__init__(task, hp)
        self.pretrained = task.pretrained() if hp.teacher == "pretrained" else {}

    def shares(self):
        """Return the sub-networks of a step, the whole first."""
        if self.task.progress < self.hp.delay:
            return [1.0]
        steps = round((1 - self.hp.smallest) * 8)
        drawn = torch.randint(steps + 1, (2,), generator=self.task.rng).tolist()
        return [1.0, self.hp.smallest, *(1 - k / 8 for k in drawn)]

    def step(self):
        task, hp, batch, losses = self.task, self.hp, self.task.next_batch(), []
        after = task.progress - hp.delay
        self.epsilon = min(1.0, after / hp.rise) if hp.teacher == "largest" else 1.0
        if hp.teacher == "pretrained":
            with torch.no_grad():
                self.aim = functional_call(task.model, self.pretrained, (batch["inputs"],))
        for i, share in enumerate(self.shares()):
            for m in self.maps:
                m.keep(share)
            loss = self.taught if i or hp.teacher == "pretrained" else self.teaching
            losses.append(task.backward(batch, loss, accumulate=i > 0))
        for m in self.maps:
            m.keep(1.0)
        ops.apply(adamw.update, task.params, self.state, hp, task.progress)
        return losses[0]

    def teaching(self, model, batch):
        """Return the whole network's loss, and keep its scores for the others."""
        scores = model(batch["inputs"])
        self.aim = scores.detach()
        return F.cross_entropy(scores.flatten(0, -2), batch["targets"].flatten())

    def taught(self, model, batch):
        scores = model(batch["inputs"])
        apart = distil.divergence(self.aim, scores, "forward", 1.0)
        if self.hp.teacher == "largest":
            return self.epsilon * apart
        return apart + F.cross_entropy(scores.flatten(0, -2), batch["targets"].flatten())

    def state_dict(self):
        return {"adam": self.state, "pretrained": self.pretrained}

    def load_state_dict(self, state):
        self.state, self.pretrained = state["adam"], state["pretrained"]
