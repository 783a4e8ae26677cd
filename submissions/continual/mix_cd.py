"""Mix-CD: rehearse the kind of examples that the old model got right and the present gets wrong.

Bai, Yeh, Hsieh, Taly, "An Efficient Rehearsal Scheme for Catastrophic Forgetting Mitigation during
Multi-stage Fine-tuning", arXiv 2402.08096.

    at a boundary the memory's examples get the old model's loss and verdict, and `bins` equal bins
    by that loss
    damage_k ← 0.9·damage_k + 0.1·(share of bin k's rehearsed examples that were right and now are
    wrong), from the rehearsed batch itself, without another pass
    rehearsal draws an example of bin k with probability ∝ damage_k;  er's mix;  finetune's step

State: er's; two numbers per stored example, one per bin.
Departures from the paper: the smoothing, the number of bins and a floor of 1e-3 on damage could not
be read and are ours; past examples are those in a reservoir; examples of the present task are not
rehearsed; the verdict on a sequence is its tokens' geometric mean probability.
"""

import torch

from harness import ops
from submissions.continual import er, finetune

TRACKS = ["continual"]
PASSES = {"forward_backward": 1.8, "forward": 0.16}
SPACE = {**er.SPACE, "bins": {"choice": [10, 5]}}


class Algorithm(er.Algorithm):
    def __init__(self, task, hp):
        super().__init__(task, hp)
        self.damage, self.edges = torch.ones(hp.bins), torch.zeros(0)

    def step(self):
        task, hp, reference = self.task, self.hp, None
        if task.boundary and len(self.memory):
            self.judge()
        batch, old = task.next_batch(), self.sample()
        if old is not None:
            task.backward(old, self.rehearse)
            reference = ops.copies([p.grad for p in task.params])
        loss = task.forward_backward(batch)
        if reference:
            torch._foreach_lerp_([p.grad for p in task.params], reference, 1 - hp.share)
        ops.apply(finetune.update, task.params, self.state, hp, task.progress)
        unjudged = torch.full((task.batch_size,), -1.0, device=task.params[0].device)
        self.memory.add(batch | {"old_nats": unjudged, "old_right": unjudged}, task.rng)
        return loss

    def judge(self):
        """Give every stored example the loss and the verdict of the model as it is now."""
        task, memory = self.task, self.memory
        for first in range(0, len(memory), task.batch_size):
            index = torch.arange(first, first + task.batch_size) % len(memory)
            old = memory.at(index)
            scores = task.logits_of([p.data for p in task.params], old)
            nats = task.nats(scores, old)
            memory.data["old_nats"][index] = nats.float()
            memory.data["old_right"][index] = right(scores, nats, old)
        inner = torch.arange(1, self.hp.bins) / self.hp.bins
        self.edges = memory.data["old_nats"].cpu().quantile(inner)

    def bins(self, old):
        return torch.bucketize(old["old_nats"].cpu(), self.edges)

    def sample(self):
        """Return examples that were judged, from damaged bins first; None if there are none."""
        memory = self.memory
        if not len(memory) or not bool((memory.data["old_right"] >= 0).any()):
            return None
        chance = self.damage[self.bins(memory.data)].clamp(min=1e-3)
        chance = chance * (memory.data["old_right"] >= 0).cpu()
        size = self.task.batch_size
        return memory.at(torch.multinomial(chance, size, True, generator=self.task.rng))

    def rehearse(self, model, old):
        """Return the loss of rehearsed examples; note the damage among them by bin."""
        scores = self.task.logits(old)
        nats = self.task.nats(scores, old)
        now = right(scores.detach(), nats.detach(), old)
        lost = (old["old_right"] - now).clamp(min=0).cpu()
        where = self.bins(old)
        for k in where.unique():
            self.damage[k].lerp_(lost[where == k].mean(), 0.1)
        return nats.mean()

    def state_dict(self):
        return super().state_dict() | {"damage": self.damage, "edges": self.edges}

    def load_state_dict(self, saved):
        super().load_state_dict(saved)
        self.damage, self.edges = saved["damage"], saved["edges"]


def right(scores, nats, batch):
    """Return 1 or 0 for a right or wrong answer; of a sequence its mean probability, exp(−nats)."""
    if "targets" in batch and batch["targets"].ndim == 1:
        return (scores.argmax(-1) == batch["targets"]).float()
    return (-nats).exp().float()
