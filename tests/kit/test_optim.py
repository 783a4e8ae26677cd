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
    torch.manual_seed(4)  # torch's generator is the user's to save: some methods draw from it
    train(model, optimizer, 4, first=4)

    resumed, other = problem(name)
    saved_model, saved_optimizer = torch.load(tmp_path / "saved", weights_only=True)
    resumed.load_state_dict(saved_model)
    other.load_state_dict(saved_optimizer)
    torch.manual_seed(4)
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


def test_what_is_no_hidden_matrix_goes_to_the_fallback_of_muon():
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
        ("adamww", {}, "adamw"),
        ("sam", {}, "step"),
    ],
)
def test_mistakes_are_named(name, hp, says):
    with pytest.raises(UserError, match=says):
        as_optimizer(name, Model(), **hp)


@pytest.mark.parametrize(
    "name, hp, says",
    [
        ("adamw", {"lr": -1.0}, "lr=-1.0"),
        ("adamw", {"lr": float("nan")}, "lr=nan"),
        ("adamw", {"lr": "fast"}, "lr='fast'"),
        ("adamw", {"betas": (0.9, 1.0)}, "beta2=1.0"),
        ("adamw", {"betas": 0.9}, "two numbers"),
        ("adamw", {"eps": -1e-8}, "eps"),
        ("adamw", {"weight_decay": -0.1}, "wd"),
        ("adamw", {"capturable": True}, "capturable=False"),
        ("adamw", {"amsgrad": True}, "amsgrad"),
        ("sgd", {"momentum": 1.0}, "below 1"),
        ("sgd", {"nesterov": 3}, "nesterov"),
        ("cautious_adamw", {"scale": "nonsense"}, "scale"),
        ("galore", {"rank": 0}, "rank"),
        ("galore", {"rank": 2.5}, "rank"),
        ("dog", {"weight_decay": 0.1}, "weight_decay"),
        ("heavy_ball", {"nesterov": True}, "heavy_ball is the variant"),
        ("lion", {"roles": {"first": "hidden"}}, "no roles"),
        ("muon", {"roles": {"third": "hidden"}}, "third"),
        ("muon", {"roles": {"first": "hiden"}}, "hidden"),
        ("muon", {"roles": {"first": "readout"}}, "found nothing to act on"),
        ("muon", {"roles": {"first.bias": "hidden"}}, "matrices"),
        ("muon", {"fallback_lrr": 0.1}, "lr"),
        ("gd", {"roles": {"first.weight": "factor"}}, "names no method for"),
        ("lora", {}, "its model"),
    ],
)
def test_values_that_a_method_cannot_take_are_named(name, hp, says):
    with pytest.raises(UserError, match=says):
        as_optimizer(name, Model(), **hp)


@pytest.mark.parametrize(
    "hp", [{"lr": 0.0}, {"lr": 5}, {"weight_decay": 0}, {"betas": [0.5, 0.5]}, {"eps": 1e-3}]
)
def test_values_outside_of_the_range_that_is_searched_are_taken(hp):
    train(model := Model(), as_optimizer("adamw", model, **hp), 1)


def test_torchs_words_are_the_submissions():
    words = {"weight_decay": 0.3, "betas": (0.8, 0.95), "foreach": True, "fused": None}
    own = {"wd": 0.3, "beta1": 0.8, "beta2": 0.95}
    results = []
    for hp in (words, own):
        model, optimizer = problem("adamw", lr=0.01, **hp)
        train(model, optimizer, 3)
        results.append(weights(model))
    assert all(torch.equal(a, b) for a, b in zip(*results))
    assert optimizer.param_groups[0]["weight_decay"] == 0.3
    assert optimizer.defaults["betas"] == (0.8, 0.95)


def test_a_variant_is_not_the_method_it_varies():
    """D6: heavy_ball raced as Nesterov."""
    peers = {"heavy_ball": False, "nesterov": True}
    for name, nesterov in peers.items():
        model, optimizer = problem(name, lr=0.05, momentum=0.9, wd=0.0)
        peer = Model()
        second = torch.optim.SGD(peer.parameters(), 0.05, momentum=0.9, nesterov=nesterov)
        train(model, optimizer, 4)
        train(peer, second, 4)
        torch.testing.assert_close(weights(model), weights(peer))


def test_momentum_zero_is_plain_gradient_descent():
    """C1: the fused kernel refused its buffers."""
    model, optimizer = problem("sgd", lr=0.05, momentum=0.0, wd=0.0)
    peer = Model()
    train(model, optimizer, 3)
    train(peer, torch.optim.SGD(peer.parameters(), 0.05), 3)
    torch.testing.assert_close(weights(model), weights(peer))


def test_a_tensor_as_learning_rate_is_read_at_every_step():
    model, optimizer = problem("adamw", lr=torch.tensor(0.01))
    peer, second = problem("adamw", lr=0.01)
    for step in range(3):
        train(model, optimizer, 1, first=step)
        train(peer, second, 1, first=step)
        optimizer.param_groups[0]["lr"].mul_(0.5)
        second.param_groups[0]["lr"] *= 0.5
    torch.testing.assert_close(weights(model), weights(peer))


def test_maximize_goes_uphill():
    p, q = (torch.ones(3, requires_grad=True) for _ in range(2))
    p.grad, q.grad = torch.ones(3), -torch.ones(3)
    as_optimizer("lion", [p], lr=0.1, maximize=True).step()
    as_optimizer("lion", [q], lr=0.1).step()
    assert torch.equal(p, q)
    assert torch.equal(p.grad, torch.ones(3))


def test_a_complex_parameter_is_refused_by_name():
    p = torch.ones(2, dtype=torch.complex64, requires_grad=True)
    with pytest.raises(UserError, match=r"waves of a group is complex.*view_as_real"):
        as_optimizer("adamw", [("waves", p)])


def test_a_sparse_gradient_is_refused():
    table = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = as_optimizer("adamw", table)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(UserError, match="dense"):
        optimizer.step()


def test_the_state_of_another_method_is_refused_before_anything_changes():
    """D14: a KeyError came out of the next step."""
    _, lion = problem("lion")
    model, adamw = problem("adamw")
    train(model, adamw, 1)
    before = copy.deepcopy(lion.state_dict())
    with pytest.raises(UserError, match="of adamw, not of lion"):
        lion.load_state_dict(adamw.state_dict())
    with pytest.raises(UserError, match="another kind of optimizer"):
        lion.load_state_dict(torch.optim.AdamW(Model().parameters()).state_dict())
    assert before == lion.state_dict()


def test_hooks_of_loading_see_and_change_what_is_loaded():
    model, optimizer = problem("adamw", lr=0.01)
    train(model, optimizer, 1)
    saved = optimizer.state_dict()
    _, other = problem("adamw", lr=0.02)

    def halve(optimizer, state):
        state = copy.deepcopy(state)
        state["param_groups"][0]["lr"] /= 2
        state["state"][0]["m"].mul_(2)
        return state

    other.register_load_state_dict_pre_hook(halve)
    other.load_state_dict(saved)
    assert other.param_groups[0]["lr"] == 0.005
    first = other.param_groups[0]["params"][0]
    assert torch.equal(other.state[first]["m"], 2 * saved["state"][0]["m"])


def test_a_step_in_evaluation_mode_is_refused_where_there_is_an_average():
    model, optimizer = problem("schedule_free_adamw")
    train(model, optimizer, 2)
    optimizer.eval()
    with pytest.raises(UserError, match=r"optimizer\.train\(\)"):
        train(model, optimizer, 1)
    optimizer.train()
    train(model, optimizer, 1)


def test_a_group_added_to_a_method_of_some_roles_says_its_role():
    """D10: muon orthogonalised norms and heads that were added to it."""
    _, optimizer = problem("muon")
    layer = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8))
    with pytest.raises(UserError, match="role"):
        optimizer.add_param_group({"params": layer[0].weight})
    with pytest.raises(UserError, match="matrices"):
        optimizer.add_param_group({"params": layer[0].bias, "role": "hidden"})
    optimizer.add_param_group({"params": layer[0].weight, "role": "hidden", "lr": 0.5})
    optimizer.add_param_group({"params": [layer[0].bias], "role": "bias"})
    assert [g["method"] for g in optimizer.param_groups[2:]] == ["muon", "adamw"]
    assert optimizer.param_groups[2]["lr"] == 0.5
    head = torch.nn.Linear(8, 2)
    head.role = "readout"
    block = torch.nn.Sequential(torch.nn.Linear(3, 8), head)
    optimizer.add_param_group({"params": block})
    assert [len(g["params"]) for g in optimizer.param_groups[4:]] == [1, 3]


def test_a_method_without_fallback_takes_what_it_is_given():
    """D9: gd and its relatives ended in an AttributeError."""
    factor = torch.randn(6, 2).requires_grad_()
    optimizer = as_optimizer("gd", [factor], lr=0.1)
    factor.grad, before = torch.ones(6, 2), factor.detach().clone()
    optimizer.step()
    torch.testing.assert_close(factor.detach(), before - 0.1)
    model = Model()
    model.first.role = "factor"
    with pytest.raises(UserError, match='fallback="adamw"'):
        as_optimizer("gd", model)
    groups = as_optimizer("gd", model, fallback="adamw").param_groups
    assert [g["method"] for g in groups] == ["gd", "adamw"]


def test_roles_can_be_said_and_are_shown():
    model = Model()
    optimizer = as_optimizer("muon", model, roles={"second": "hidden", "second.bias": "bias"})
    assert optimizer.names == {
        "muon": ["first.weight", "second.weight"],
        "adamw": ["first.bias", "second.bias"],
    }
    assert "muon takes first.weight, second.weight" in repr(optimizer)


def test_a_mistake_in_a_group_is_named():
    with pytest.raises(UserError, match="did you mean lr"):
        as_optimizer("adamw", [{"params": Model().parameters(), "lrr": 0.1}])


def test_a_method_for_some_roles_asks_for_the_model():
    with pytest.raises(UserError, match="model"):
        as_optimizer("muon", Model().parameters())
