"""Normalised logistic-regression gradient descent: steps over the mean chance of a wrong answer.

Tyurin, "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large
Step Sizes", arXiv 2412.08424 (Normalized LR+GD).

    β = 1/mean(1 − p_i),  p_i the probability that the model gives the label of example i
    p ← p − lr·β·g

Where classes can be separated, larger lr is better: lr → ∞ is a normalised batch perceptron. The
probability is exp(−loss_i), where the loss has no penalty. The paper has it from the same pass;
here a forward pass gives it.

State: none.
Departures from the paper: with more than two classes 1 − p_i takes the place of the binary chance,
and networks have no guarantee; training starts from the workload's weights, which need not be 0.
"""

import torch

PASSES = {"forward_backward": 1, "forward": 1}
SPACE = {"lr": {"log": [0.03, 300.0], "default": 1.0}}


class Algorithm:
    def __init__(self, task, hp):
        self.task, self.hp = task, hp

    def step(self):
        batch = self.task.next_batch()
        wrong = -torch.expm1(-self.task.losses(batch))
        loss = self.task.forward_backward(batch)
        length = self.hp.lr / float(wrong.mean().clamp(min=torch.finfo(wrong.dtype).tiny))
        with torch.no_grad():
            for p in self.task.params:
                if p.grad is not None:
                    p.sub_(p.grad, alpha=length)
        return loss

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
