"""Greedy continuations: what is written, what counts as different and as known."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from harness.laws.small_workloads import small_workloads
from harness.train.submission import Submission
from tests.parity.test_parity_turned import at_work
from tests.support import nets
from workloads import ft_greedy


class Counting(nn.Module):
    """The most likely next token is one more than the last, modulo 8."""

    def forward(self, tokens):
        return nn.functional.one_hot((tokens + 1) % 8, 9).float()


def summed(model, known):
    inputs = torch.arange(40).repeat(20, 1) % 8
    data = {"windows": torch.cat([inputs, inputs[:, :1]], 1), "bytes": inputs, "known": known}
    config = SimpleNamespace(model=SimpleNamespace(context=40))
    batch = ft_greedy.batch(data, torch.arange(20), config)
    assert batch["prompts"].shape == (16, 32)
    sums = ft_greedy.metric(model, batch)
    return ft_greedy.score({name: float(v) for name, v in sums.items()})


def test_a_loop_of_eight_tokens_has_eight_of_sixty_four():
    known = torch.zeros(9, 9, dtype=torch.bool)
    known[torch.arange(7), torch.arange(1, 8)] = True  # but not 7 to 0
    scores = summed(Counting(), known)
    assert scores["diversity"] == 8 / 64
    pairs = [(k % 8, (k + 1) % 8) for k in range(63)]
    assert scores["known"] == pytest.approx(sum(a < b for a, b in pairs) / 63)


def test_continuations_follow_their_prompts():
    prompts = torch.tensor([[0] * 31 + [3], [0] * 31 + [7]])
    text = ft_greedy.written(Counting(), prompts)
    assert text[:, :3].tolist() == [[4, 5, 6], [0, 1, 2]]
    assert text.shape == (2, 64)


def test_hyperfit_sees_a_few_examples_again_and_again():
    workload = next(w for w in small_workloads() if w.name == "ft_gpt2")
    task, seen = workload.task(), []
    gather = task.gather
    task.gather = lambda index: seen.extend(index.tolist()) or gather(index)
    submission: Submission = at_work("hyperfit", task, count=12)
    losses = []
    for _ in range(24):
        losses.append(float(submission.step()))
        task.step += 1
    counts = {i: seen.count(i) for i in set(seen)}
    assert len(counts) == 12
    assert max(counts.values()) - min(counts.values()) <= 1, "each round has every example once"
    assert losses[-1] < losses[0]


def test_hyperfit_equals_its_formula():
    """AdamW at a constant rate; batches of 8 run through rounds of 12 chosen examples."""
    made, draw = nets.task(), nets.draws()
    inputs, targets = (made._data[k].numpy() for k in ("inputs", "targets"))
    chosen, numbers = torch.randperm(nets.EXAMPLES, generator=draw).numpy()[:12], []
    weights, optimizer = nets.start(), nets.Adam(beta2=0.999)
    for t in range(nets.STEPS):
        while len(numbers) < (t + 1) * nets.BATCH:
            numbers += chosen[torch.randperm(12, generator=draw).numpy()].tolist()
        now = numbers[t * nets.BATCH : (t + 1) * nets.BATCH]
        optimizer.step(weights, nets.gradients(weights, inputs[now], targets[now]), 0.01, 0.3)
    found = nets.run(nets.submitted("hyperfit", made, lr=0.01, count=12, wd=0.3))
    assert nets.difference(found, weights) < 1e-10
