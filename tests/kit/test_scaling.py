"""The Step Law's predictions, and the submission and the command that use them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from harness.catalog.definition import define, tree_of
from harness.cli.commands import suggest
from harness.errors import UserError
from harness.scaling import step_law
from harness.train.task import Task
from tests.kit.test_surgery import MODEL, TASK
from tests.support import nets
from tests.support.racing import typed
from workloads.models.gpt import GPT


@pytest.mark.parametrize(
    "parameters, tokens, lr, batch",
    [(2.7e5, 5e6, 2.73e-2, 3877), (4.1e7, 1e9, 3.87e-3, 79_878)],
)
def test_predictions_are_the_published_power_laws(parameters, tokens, lr, batch):
    """Worked out apart from the published constants, to the digits of the second source."""
    found = step_law(parameters, tokens)
    assert found == (pytest.approx(lr, rel=2e-3), pytest.approx(batch, rel=2e-3))
    with pytest.raises(ValueError, match="above 0"):
        step_law(0, tokens)


def language_task(batch=1, steps=100):
    """A small GPT in float64 whose inputs are windows of eight tokens."""
    torch.manual_seed(0)
    model = GPT(SimpleNamespace(**MODEL, activation="gelu", tied=False, init_scale=4.0)).double()
    tokens = (torch.randint(24, (64, 1)) + 5 * torch.arange(9)) % 24
    data = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    return Task(TASK, SimpleNamespace(batch=batch), data, model, 0, steps)


def test_step_law_equals_its_formula():
    """AdamW with 1.79·N^(−0.713)·D^0.307, three windows of eight tokens an update."""
    task, second = language_task(), language_task()
    submission = nets.submitted("step_law", task)
    for _ in range(20):
        submission.step()
        task.step += 1
    model, optimizer = second.model, nets.Adam()
    size = sum(p.numel() for b in model.blocks for p in b.parameters())
    size += sum(p.numel() for p in model.norm.parameters())
    lr = 1.79 * size**-0.713 * 800**0.307
    assert round(0.58 * 800**0.571 / 8) == 3
    total = {n: 0.0 for n, _ in model.named_parameters()}
    for t in range(20):
        model.zero_grad()
        batch = second.next_batch()
        F.cross_entropy(model(batch["inputs"]).flatten(0, 1), batch["targets"].flatten()).backward()
        for n, p in model.named_parameters():
            total[n] = total[n] + p.grad.numpy() / 3
        if t % 3 < 2:
            continue
        progress = (t + 0.5) / 100
        factor = 0.5 + 0.5 * np.cos(np.pi * (progress - 0.05) / 0.95)
        rate = progress / 0.05 * lr if progress < 0.05 else 1e-5 + (lr - 1e-5) * factor
        weights = {n: p.detach().numpy() for n, p in model.named_parameters()}
        optimizer.step(weights, total, rate, 0.1)
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.copy_(torch.from_numpy(weights[n]))
        total = dict.fromkeys(total, 0.0)
    mine = {n: p.detach().numpy() for n, p in task.model.named_parameters()}
    theirs = {n: p.detach().numpy() for n, p in model.named_parameters()}
    assert nets.difference(mine, theirs) <= 1e-11


def test_step_law_refuses_what_is_not_a_language_model():
    submission = nets.submitted("step_law", nets.task())
    with pytest.raises(UserError, match=r"language models.*workload=gpt2"):
        submission.step()


def test_suggest_prints_sizes_and_the_command():
    code, out, err = typed("suggest", "gpt2")
    assert (code, err) == (0, "")
    definition = define("gpt2", tree_of("gpt2"), "mini", None)
    lr, batch = step_law(suggest.parameters(definition), 1_536_000)
    assert "1,536,000 tokens: 1,000 steps of 12 x 128" in out
    assert f"lr {lr:.3g}\n" in out
    assert f"batch {batch:,.0f} tokens" in out
    assert "extrapolated" in out
    assert out.endswith("workload=gpt2 scale=mini submission=step_law\n")


@pytest.mark.parametrize(
    "words, message",
    [
        (["vit"], "not the training of a language model"),
        (["ft_gpt2"], "not the training of a language model"),
        (["gpt3"], "gpt2"),
        (["gpt2", "--scale", "huge"], "mini"),
    ],
)
def test_suggest_refuses_with_a_reason(words, message):
    code, out, err = typed("suggest", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
