"""DER++: replayed examples keep the scores that the model gave when it stored them.

Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline",
arXiv 2004.07211.

    L = nats(x) + alpha·mean (f(x_a) − z_a)² + beta·nats(x_b);  finetune's step on ∇L
    z: the scores of the training pass in which the example came, before its step;  a, b: two
    independent draws from a reservoir

State: finetune's; the reservoir, `task.memory` bytes of examples with their scores.
Departures from the paper: no augmentation, so the scores are of the same image. DER is beta = 0.
"""

from harness import ops
from submissions.continual import er, finetune

TRACKS = ["continual"]
PASSES = {"forward_backward": 3}
SPACE = {
    **finetune.SPACE,
    "alpha": {"log": [0.05, 2.0], "default": 0.5},
    "beta": {"linear": [0.0, 2.0], "default": 0.5},
}
VARIANTS = {"der": {"beta": 0.0}}


class Algorithm(er.Algorithm):
    def step(self):
        task, hp, kept = self.task, self.hp, {}
        batch = task.next_batch()

        def new(model, batch):
            scores = task.logits(batch)
            kept["answers"] = scores.detach()
            return task.nats(scores, batch).mean()

        loss = task.backward(batch, new)
        if len(self.memory):
            self.replay(lambda _, old: hp.alpha * self.apart(old))
            if hp.beta:
                self.replay(lambda _, old: hp.beta * task.nats(task.logits(old), old).mean())
        ops.apply(finetune.update, task.params, self.state, hp, task.progress)
        self.memory.add(batch | kept, task.rng)
        return loss

    def replay(self, loss):
        old = self.memory.sample(self.task.batch_size, self.task.rng)
        self.task.backward(old, loss, accumulate=True)

    def apart(self, old):
        """Return the mean squared difference to the stored scores, over examples and classes."""
        return (self.task.logits(old) - old["answers"]).square().mean()
