"""A submission as a torch optimizer behaves like one."""

import copy
import re

import pytest
import torch

from harness.catalog import discover
from harness.errors import UserError
from harness.optim import as_optimizer


def form_b():
    """Names of the form (b) submissions, and those of them that need a model's roles."""
    cards = [
        discover.read(p)
        for p in discover.submissions().values()
        if p.family in ("first_order", "schedules")
    ]
    return [c for c in cards if c.form == "b" and "adapt" not in c.functions]


NAMES = [c.plugin.name for c in form_b()]


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(6, 8), torch.nn.Linear(8, 3)
        self.second.role = "readout"

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def problem(name, **hp):
    model = Model()
    return model, as_optimizer(name, model, **hp)


def train(model, optimizer, steps, first=0):
    """Loss after training on a fixed regression, batch `first`, `first` + 1, ..."""
    for step in range(first, first + steps):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x[:, :3].sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_torch_optimizer_and_moves_every_parameter(name):
    model, optimizer = problem(name)
    before = weights(model)
    train(model, optimizer, 5)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, weights(model)))


@pytest.mark.parametrize("name", NAMES)
def test_resume_is_bit_exact(name, tmp_path):
    model, optimizer = problem(name)
    train(model, optimizer, 4)
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "saved")
    train(model, optimizer, 4, first=4)

    resumed, other = problem(name)
    saved_model, saved_optimizer = torch.load(tmp_path / "saved", weights_only=True)
    resumed.load_state_dict(saved_model)
    other.load_state_dict(saved_optimizer)
    train(resumed, other, 4, first=4)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(resumed)))


def test_a_scheduler_scales_the_learning_rate():
    model, optimizer = problem("adamw", lr=0.01)
    peer = copy.deepcopy(model)
    hp = {k: optimizer.param_groups[0][k] for k in ("betas", "eps", "weight_decay")}
    second = torch.optim.AdamW(peer.parameters(), 0.01, **hp, foreach=False)
    for net, opt in ((model, optimizer), (peer, second)):
        scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
        for step in range(4):
            train(net, opt, 1, first=step)
            scheduler.step()
    torch.testing.assert_close(weights(model), weights(peer))


def test_a_horizon_brings_the_methods_own_schedule():
    model, optimizer = problem("sgd", horizon=10, warmup=0.5, wd=0.0, momentum=0.9)
    assert optimizer.param_groups[0]["warmup"] == 0.5
    start = weights(model)
    train(model, optimizer, 1)
    first = weights(model)
    plain, other = problem("sgd", wd=0.0, momentum=0.9)
    train(plain, other, 1)
    # Progress is 1/20 of the horizon, a tenth of the warm-up.
    for a, b, c in zip(start, first, weights(plain)):
        torch.testing.assert_close(10 * (b - a), c - a, rtol=1e-4, atol=1e-6)


def test_groups_have_their_own_hyperparameters():
    model = Model()
    frozen = weights(model)[2:]
    groups = [
        {"params": model.first.parameters(), "lr": 0.01},
        {"params": model.second.parameters(), "lr": 0.0, "wd": 0.0},
    ]
    train(model, as_optimizer("adamw", groups), 3)
    assert all(torch.equal(a, b) for a, b in zip(frozen, weights(model)[2:]))


def test_parameters_without_gradient_keep_value_and_state():
    model = Model()
    optimizer = as_optimizer("adamw", model.parameters())
    model.second.bias.requires_grad_(False)
    before = model.second.bias.clone()
    train(model, optimizer, 2)
    assert torch.equal(before, model.second.bias)
    assert not optimizer.state[model.second.bias]["m"].any()


def test_the_example_in_the_documents_learns():
    text = (discover.ROOT / "docs" / "submissions.md").read_text()
    (example,) = (b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "as_optimizer" in b)
    torch.manual_seed(0)
    known: dict = {}
    exec(compile(example, "docs/submissions.md", "exec"), known)
    x = known["x"]
    assert isinstance(known["optimizer"], torch.optim.Optimizer)
    assert known["loss"] < 0.1 * x.sin().sum(1).square().mean()


def test_muon_gives_what_is_no_hidden_matrix_to_its_fallback():
    model, optimizer = problem("muon", lr=0.02, fallback_lr=0.003)
    hidden, rest = optimizer.param_groups
    assert [id(p) for p in hidden["params"]] == [id(model.first.weight)]
    assert (hidden["lr"], rest["lr"]) == (0.02, 0.003)
    assert len(rest["params"]) == 3


def test_evaluation_shows_the_average_and_restores_the_parameters():
    model, optimizer = problem("schedule_free_adamw")
    train(model, optimizer, 5)
    before = weights(model)
    with optimizer.evaluation():
        assert not torch.equal(before[0], model.first.weight)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model)))


@pytest.mark.parametrize(
    "name, hp, says",
    [
        ("adamw", {"weight_decy": 0.1}, "weight_decay"),
        ("adamw", {"warmup": 0.1}, "horizon"),
        ("adamv", {}, "adamw"),
        ("sam", {}, "step"),
    ],
)
def test_mistakes_are_named(name, hp, says):
    with pytest.raises(UserError, match=says):
        as_optimizer(name, Model(), **hp)


def test_a_mistake_in_a_group_is_named():
    with pytest.raises(UserError, match="did you mean lr"):
        as_optimizer("adamw", [{"params": Model().parameters(), "lrr": 0.1}])


def test_a_method_for_some_roles_asks_for_the_model():
    with pytest.raises(UserError, match="model"):
        as_optimizer("muon", Model().parameters())
