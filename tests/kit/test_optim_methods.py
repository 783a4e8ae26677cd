"""Laws of `as_optimizer` over every form (b) submission: layouts, dtypes, copies, modes."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from harness.catalog import discover
from harness.optim import as_optimizer


def form_b():
    """Return the cards of all submissions that can be optimizers, variants among them."""
    cards = [discover.read(plugin) for plugin in discover.submissions().values()]
    return {
        c.plugin.name: c
        for c in cards
        if c.form == "b" and "adapt" not in c.functions and "BASE" not in c.literals
    }


CARDS = form_b()
NAMES = list(CARDS)
SHAPE = (6, 4)


class Model(nn.Module):
    """Two matrices, a bias and a head; or two factors of one rank, for methods of factors."""

    def __init__(self, factors):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 3)
        self.second.role = "readout"
        if factors:
            self.first, self.second = nn.Module(), nn.Module()
            for part, rows in ((self.first, 8), (self.second, 7)):
                part.role, part.weight = "factor", nn.Parameter(torch.randn(rows, 3))


def test_there_are_as_many_methods_as_the_page_says():
    assert len(NAMES) > 100


def model_of(name):
    return Model(CARDS[name].literals.get("HANDLES") == ["factor"])


def alone(name, params):
    """An optimizer of tensors without a model, which a method for some roles wants named."""
    handles = CARDS[name].literals.get("HANDLES")
    groups = [{"params": params, "role": handles[0]}] if handles else params
    return as_optimizer(name, groups, **({"power": 2} if name == "scaled_gd" else {}))


def train(optimizer, params, steps, first=0):
    params = list(params)
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        torch.manual_seed(step)
        optimizer.step()


def values(params):
    return [p.detach().clone() for p in params]


def equal(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_view_with_gaps_is_updated_and_its_neighbours_are_not(name):
    """D1: the fused kernels took any tensor, and wrote into the memory between its elements."""
    whole = torch.randn(*SHAPE, 2, generator=torch.Generator().manual_seed(1))
    neighbours, plain = whole[..., 1].clone(), whole[..., 0].clone().requires_grad_()
    view = whole[..., 0].detach().requires_grad_()
    for p in (view, plain):
        train(alone(name, [p]), [p], 3)
    assert torch.equal(whole[..., 1], neighbours)
    torch.testing.assert_close(view, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_empty_parameters_do_no_harm(name):
    full, empty = torch.randn(SHAPE).requires_grad_(), torch.zeros(0, 4).requires_grad_()
    peer = full.detach().clone().requires_grad_()
    optimizer = alone(name, [empty, full])
    train(optimizer, [full, empty], 3)
    train(alone(name, [peer]), [peer], 3)
    assert torch.equal(full, peer)
    alone(name, [empty, full]).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_low_precision_parameters_have_state_of_float32(name, dtype):
    p = torch.randn(SHAPE).to(dtype).requires_grad_()
    optimizer = alone(name, [p])
    train(optimizer, [p], 3)
    assert p.dtype == dtype
    assert torch.isfinite(p).all()
    kept = [v for v in optimizer.state[p].values() if isinstance(v, torch.Tensor)]
    assert not any(v.dtype == dtype for v in kept)


@pytest.mark.parametrize("name", NAMES)
def test_loaded_state_keeps_its_dtypes_and_shares_no_memory(name):
    """D4: torch casts state to the parameter's dtype; codes and columns of ours are integers."""
    p = torch.randn(80, 60).bfloat16().requires_grad_()
    optimizer = alone(name, [p])
    train(optimizer, [p], 2)
    q = p.detach().clone().requires_grad_()
    other = alone(name, [q])
    other.load_state_dict(optimizer.state_dict())
    for key, value in optimizer.state[p].items():
        assert other.state[q][key].dtype == value.dtype, key
    saved = copy.deepcopy(optimizer.state_dict())
    train(other, [q], 2, first=2)
    assert equal(state_tensors(saved["state"][0]), state_tensors(optimizer.state[p]))
    train(optimizer, [p], 2, first=2)
    assert torch.equal(p, q)


def state_tensors(state):
    return [v for v in state.values() if isinstance(v, torch.Tensor)]


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "save"])
@pytest.mark.parametrize("name", NAMES)
def test_a_copied_optimizer_goes_on_like_the_first(name, how):
    """D5: copies lost the rules."""
    model = model_of(name)
    optimizer = as_optimizer(name, model)
    train(optimizer, model.parameters(), 2)
    pair = (model, optimizer)
    if how == "deepcopy":
        other, second = copy.deepcopy(pair)
    elif how == "pickle":
        other, second = pickle.loads(pickle.dumps(pair))
    else:
        file = io.BytesIO()
        torch.save(pair, file)
        file.seek(0)
        other, second = torch.load(file, weights_only=False)
    train(optimizer, model.parameters(), 2, first=2)
    train(second, other.parameters(), 2, first=2)
    assert equal(model.parameters(), other.parameters())
    assert repr(second) == repr(optimizer)
    assert repr(name) in repr(optimizer)


@pytest.mark.parametrize("name", NAMES)
def test_a_learning_rate_of_zero_gives_finite_weights(name):
    """D8: warm-ups from zero and loads of distributed checkpoints make such steps."""
    model = model_of(name)
    optimizer = as_optimizer(name, model, lr=0.0)
    train(optimizer, model.parameters(), 3)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    train(optimizer, model.parameters(), 2, first=3)
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_mode_is_undone_by_training_mode_and_survives_a_checkpoint(name):
    model = model_of(name)
    optimizer = as_optimizer(name, model)
    optimizer.eval()
    optimizer.train()
    train(optimizer, model.parameters(), 4)
    trained = values(model.parameters())
    optimizer.eval()
    saved = [copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())]
    optimizer.train()
    assert equal(trained, model.parameters())
    other = model_of(name)
    second = as_optimizer(name, other)
    other.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    second.train()
    assert equal(trained, other.parameters())
    train(optimizer, model.parameters(), 2, first=4)
    train(second, other.parameters(), 2, first=4)
    assert equal(model.parameters(), other.parameters())
