"""Laws of surgery: masks hold exactly, exports are what was trained, constraints are measured."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness import surgery
from harness.catalog import discover, space
from harness.errors import UserError
from harness.race import weight_metrics
from harness.train.submission import Submission
from harness.train.task import Task
from workloads.models.gpt import GPT

MODEL = {"vocabulary": 24, "context": 8, "depth": 2, "heads": 2, "width": 16, "norm": "pre"}
CONFIG = SimpleNamespace(
    batch=4, model=SimpleNamespace(**MODEL, activation="gelu", tied=False, init_scale=4.0)
)
TASK = SimpleNamespace(
    __name__="tiny",
    size=lambda data, config: 64,
    batch=lambda data, index, config: {k: v[index] for k, v in data.items()},
    loss=lambda model, batch: F.cross_entropy(
        model(batch["inputs"]).flatten(0, 1), batch["targets"].flatten()
    ),
    inputs=lambda batch: batch["inputs"],
)


def small_task(horizon=12, seed=0):
    """A language model of 8,000 parameters; each token is a function of the one before."""
    torch.manual_seed(seed)
    model = GPT(CONFIG.model)
    tokens = (torch.randint(24, (64, 1)) + 5 * torch.arange(9)) % 24
    data = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    task = Task(TASK, CONFIG, data, model, seed, horizon)
    task.start = copy.deepcopy(model.state_dict())
    return task


def submitted(name, task, **settings):
    """The submission at work on the task, its defaults and `settings`."""
    card = discover.read(discover.find(name))
    return Submission(card, space.default(card.literals["SPACE"]) | settings, task)


def run(submission, steps):
    for _ in range(steps):
        torch.manual_seed(submission.task.step)
        submission.step()
        submission.task.step += 1


def zeros_where_masked(task):
    return all(
        bool((m.weight[~task.masks.of(m.weight)] == 0).all())
        for m in surgery.matrices(task.model).values()
    )


@pytest.mark.parametrize("wd", [0.0, 0.5])
def test_masks_hold_under_momentum_and_decay(wd):
    task = small_task()
    method = submitted("magnitude", task, base_wd=wd, base_lr=0.01)
    run(method, 5)
    assert zeros_where_masked(task)
    (group,) = method.groups
    for values in group.lists():
        for p, v in zip(group.params, values, strict=True):
            assert bool((v[~task.masks.of(p)] == 0).all())
    weights = [m.weight for m in surgery.matrices(task.model).values()]
    assert weight_metrics.sparsity(weights) == pytest.approx(0.8, abs=1e-3)
    assert weight_metrics.sparsity(weights) >= 0.8


@pytest.mark.parametrize("form", ["sgd", "lion"])
def test_masks_hold_in_every_form_of_submission(form):
    task = small_task()
    method = submitted(form, task)
    weight = task.model.blocks[0].up.weight
    task.masks.set(weight, torch.rand(weight.shape) > 0.5)
    run(method, 3)
    assert zeros_where_masked(task)
    assert bool((weight[task.masks.of(weight)] != 0).all())


def test_gradients_are_masked_unless_lifted():
    task = small_task()
    weight = task.model.blocks[0].up.weight
    task.masks.set(weight, torch.rand(weight.shape) > 0.5)
    hidden = ~task.masks.of(weight)
    task.forward_backward(task.next_batch())
    assert bool((weight.grad[hidden] == 0).all())
    with task.masks.lifted():
        task.forward_backward(task.next_batch())
    assert bool((weight.grad[hidden] != 0).any())


RESUMED = [
    "magnitude",
    "rigl",
    "imp",
    "movement",
    "sparse_soups",
    "adalora",
    "lisa",
    "hft",
    "sft",
    "said",
]


@pytest.mark.parametrize("name", RESUMED)
def test_resume_is_bit_exact(name):
    whole = small_task(12)
    method = submitted(name, whole)
    run(method, 7)
    model = copy.deepcopy(whole.model.state_dict())
    saved = copy.deepcopy({"task": whole.state_dict(), "method": method.state_dict()})
    run(method, 5)

    task = small_task(12)
    again = submitted(name, task)
    for key, tensor in task.model.state_dict().items():
        tensor.copy_(model[key])
    task.load_state_dict(saved["task"])
    again.load_state_dict(saved["method"])
    run(again, 5)
    for key, value in surgery.export(task.model).items():
        assert torch.equal(value, surgery.export(whole.model)[key]), key


def test_export_has_the_workloads_tensors_and_its_function():
    task = small_task()
    names, x = list(task.model.state_dict()), task.next_batch()["inputs"]
    method = submitted("lora", task, base_lr=0.05)
    run(method, 4)
    plain = GPT(CONFIG.model)
    exported = surgery.export(task.model)
    assert sorted(exported) == sorted(names)
    plain.load_state_dict(exported)
    torch.testing.assert_close(plain(x), task.model(x), atol=1e-5, rtol=1e-5)


def test_what_trains_is_counted_without_the_head():
    task = small_task()
    submitted("head_only", task)
    assert surgery.trained(task.model) == 0
    assert sum(p.numel() for p in task.params) == 24 * 16
    submitted("lora", task, rank=2)
    matrices = [(48, 16), (16, 16), (64, 16), (16, 64)]
    assert surgery.trained(task.model) == 2 * sum(2 * (o + i) for o, i in matrices)


def test_calibration_has_inputs_only_and_is_repeatable():
    task = small_task()
    first = task.calibration(5)
    assert first.shape == (5, 8)
    assert torch.equal(first, task.calibration(5))


def test_pretrained_weights_are_a_copy_and_missing_ones_an_error():
    task = small_task()
    task.pretrained()["tokens.weight"].zero_()
    assert bool(task.pretrained()["tokens.weight"].any())
    task.start = None
    with pytest.raises(UserError, match="not pretrained"):
        task.pretrained()


def test_two_of_four_counts_groups_along_inputs():
    w = torch.tensor([[0.0, 0, 1, 2, 0, 0, 0, 3], [1, 0, 1, 0, 1, 1, 1, 0]])
    assert weight_metrics.two_four([w]) == 3 / 4
    assert weight_metrics.sparsity([w]) == 8 / 16


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_bits_are_those_of_the_coarsest_grid(bits):
    codes = torch.randint(2**bits, (6, 300), generator=torch.Generator().manual_seed(0))
    codes[:, 0], codes[:, 1], codes[:, 2] = 0, 1, 2**bits - 1
    w = 0.037 * codes - torch.rand(6, 1)
    assert weight_metrics.bits([w.float()]) == bits
    assert weight_metrics.bits([w.float(), torch.zeros(6, 300)]) == bits / 2
    assert weight_metrics.bits([torch.randn(6, 64)]) == 32


def test_nothing_to_act_on_is_an_error():
    with pytest.raises(UserError, match="no hidden linear"):
        surgery.replace(nn.Sequential(nn.LayerNorm(3)), lambda m: m)
