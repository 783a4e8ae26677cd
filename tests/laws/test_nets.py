"""The network of tests/support/nets.py: its hand-made gradients are those of autograd."""

import torch

from tests.support import nets


def test_gradients_by_hand_are_those_of_autograd():
    task = nets.task()
    batch = task.next_batch()
    task.forward_backward(batch)
    by_hand = nets.gradients(nets.start(), *next(nets.batches()))
    for name, p in task.model.named_parameters():
        torch.testing.assert_close(torch.from_numpy(by_hand[name]), p.grad, atol=1e-13, rtol=1e-10)
