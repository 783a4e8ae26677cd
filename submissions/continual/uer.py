"""UER: new examples train the angles of features and classes, replayed ones the norms too.

Lin et al., "UER: A Heuristic Bias Addressing Approach for Online Continual Learning",
arXiv 2309.04081.

    new: cross-entropy of scale·cos(w_c, f);  replayed: cross-entropy of w_c·f
    er's mix of the two gradients;  finetune's step;  predictions are by w_c·f

State: er's.
Departures from the paper: the authors' repository has no code, so the scale (their temperature) is
a hyperparameter; the angles ignore a bias of the readout.
"""

import torch.nn.functional as F

from harness import ops
from submissions.continual import er, finetune

TRACKS = ["continual"]
PASSES = er.PASSES
SPACE = {**er.SPACE, "scale": {"log": [3.0, 30.0]}}


class Algorithm(er.Algorithm):
    def step(self):
        task, hp = self.task, self.hp
        batch = task.next_batch()
        loss = er.mix(task, batch, self.memory, hp.share, self.angles)
        ops.apply(finetune.update, task.params, self.state, hp, task.progress)
        self.memory.add(batch, task.rng)
        return loss

    def angles(self, model, batch):
        """Return the workload's loss of scaled cosines in place of its logits."""
        weights = [p for p, r in zip(self.task.params, self.task.roles) if r.kind == "readout"]
        features = F.normalize(self.task.features(batch), dim=-1)
        cosines = F.linear(features, F.normalize(weights[0], dim=-1))
        return self.task.nats(self.hp.scale * cosines, batch).mean()
