"""MIR: replay the stored examples whose loss the coming step would raise most.

Aljundi et al., "Online Continual Learning with Maximally Interfered Retrieval", arXiv 1908.04742.

    θ' = θ − lr·∇L(new);  of `candidates` batches drawn from a reservoir, the examples with the
    largest nats(θ') − nats(θ) are the replay batch;  er's mix of the gradients;  finetune's step

State: er's; a copy of the weights during a step.
Departures from the paper: candidates may be of the present task, because the reservoir knows no
tasks; the virtual step is plain SGD's at the same rate, whatever finetune's momentum is; the two
losses have weights (er's `share`).
"""

import torch

from harness import ops
from submissions.continual import er, finetune

TRACKS = ["continual"]
PASSES = {"forward_backward": 2, "forward": 4}
SPACE = {**er.SPACE, "candidates": 2}


class Algorithm(er.Algorithm):
    def step(self):
        task, hp = self.task, self.hp
        batch = task.next_batch()
        loss = er.mix(task, batch, self, hp.share)
        ops.apply(finetune.update, task.params, self.state, hp, task.progress)
        self.memory.add(batch, task.rng)
        return loss

    def __len__(self):
        return len(self.memory)

    def sample(self, size, rng):
        """Return the replay batch; er's mix asks for it in place of the memory."""
        task, share = self.task, self.hp.share
        # The gradients of the new examples, which the mix has multiplied by share/(1 − share).
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in task.params]
        rate = self.hp.lr * (1 - share) / share
        ahead = torch._foreach_add([p.data for p in task.params], grads, alpha=-rate)
        drawn, rise = self.memory.sample(self.hp.candidates * size, rng), []
        for first in range(0, self.hp.candidates * size, size):
            part = {key: value[first : first + size] for key, value in drawn.items()}
            after = task.nats(task.logits_of(ahead, part), part)
            rise.append(after - task.losses(part))
        worst = torch.cat(rise).topk(size).indices
        return {key: value[worst] for key, value in drawn.items()}
