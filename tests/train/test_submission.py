"""Laws of the forms: who updates what, and what missing gradients and views leave alone."""

import subprocess
import sys
from collections import deque
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from harness.catalog import discover, space
from harness.errors import UserError
from harness.system.paths import ROOT
from harness.train.submission import Submission, _checked, kept_bytes
from harness.train.task import Task

STEPS = 6


class Model(nn.Module):
    """Parameters of several roles; those of `unused` get no gradient in an idle step."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(5, 4), nn.LayerNorm(4)
        self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
        self.idle = False

    def forward(self, x):
        x = self.norm(self.used(self.embedding(x)))
        return x if self.idle else self.unused(x)


WORKLOAD = SimpleNamespace(
    __name__="toy",
    size=lambda data, config: len(data["x"]),
    batch=lambda data, index, config: {"x": data["x"][index]},
    loss=lambda model, batch: (model(batch["x"]) - 1).square().mean(),
)


def task(seed=0):
    torch.manual_seed(seed)
    data = {"x": torch.arange(40) % 5}
    return Task(WORKLOAD, SimpleNamespace(batch=8), data, Model(), seed, STEPS)


def submission(name, on, **hp):
    card = discover.read(discover.find(name))
    return Submission(card, space.default(card.literals["SPACE"]) | hp, on)


def written(tmp_path, text, on, name="mine"):
    path = tmp_path / f"{name}.py"
    path.write_text(text)
    card = discover.read(discover.Plugin(name, path, "", None))
    return Submission(card, space.default(card.literals["SPACE"]), on)


def train(made, on, steps=STEPS, idle=()):
    for step in range(steps):
        torch.manual_seed(step)
        on.model.idle = step in idle
        made.step()
        on.step += 1


def values(on):
    return {name: p.detach().clone() for name, p in on.model.named_parameters()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


NAMES = ["adamw", "lion", "sgd", "muon", "nadamw", "cautious_adamw", "schedule_free_adamw"]


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_without_gradient_keeps_value_and_state(name):
    on = task()
    made = submission(name, on)
    train(made, on, 2)
    before, states = values(on), [_parallel(group) for group in made.groups]
    on.model.idle = True
    made.step()
    after, later = values(on), [_parallel(group) for group in made.groups]
    for key in before:
        assert torch.equal(before[key], after[key]) == key.startswith("unused"), key
    still = {id(p) for key, p in on.model.named_parameters() if key.startswith("unused")}
    for group, old, new in zip(made.groups, states, later):
        for p, was, is_ in zip(group.params, old, new):
            if id(p) in still:
                assert all(torch.equal(a, b) for a, b in zip(was, is_))


def _parallel(group):
    """Copies of the state's lists, one entry a parameter, whether or not the group is flat."""
    lists = [v for v in group.state.values() if isinstance(v, list)]
    if group.flat:
        lists = [group.flat.split(whole) for (whole,) in lists]
    return [[entry.clone() for entry in column] for column in zip(*lists)]


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd"])
def test_flat_and_listed_updates_agree_where_gradients_come_and_go(name):
    results = []
    for chosen in (name, f"tests/submissions/list_{name}.py"):
        on = task()
        train(submission(chosen, on), on, idle=(1, 2, 4))
        results.append(values(on))
    for key, value in results[0].items():  # where a matrix lies in memory may round its products
        torch.testing.assert_close(value, results[1][key], rtol=1e-6, atol=1e-6)


MARKS = """
'''Adds one to what it handles.'''
HANDLES = ["hidden"]
FALLBACK = "sgd"
SPACE = {"one": 1.0, "fallback_lr": 0.05, "fallback_momentum": 0.95}
def init(params, hp):
    return {}
def update(params, grads, state, hp, progress):
    for p in params:
        p.add_(hp.one)
"""


def test_handled_roles_and_the_fallback_split_the_parameters(tmp_path):
    on = task()
    made = written(tmp_path, MARKS, on)
    before = values(on)
    train(made, on, 1)
    for name, value in values(on).items():
        hidden = name in ("used.weight", "unused.weight")
        assert torch.equal(value, before[name] + 1) == hidden, name
    alone, fallback = task(), made.groups[1].hp
    train(submission("sgd", alone, lr=0.05, momentum=0.95), alone, 1)
    for name, value in values(alone).items():  # what is left moves as under the fallback alone
        if name not in ("used.weight", "unused.weight"):
            assert torch.equal(value, values(on)[name])
    assert (fallback.lr, fallback.momentum) == (0.05, 0.95)
    assert (
        fallback.nesterov
        == space.default(discover.read(discover.find("sgd")).literals["SPACE"])["nesterov"]
    )


@pytest.mark.parametrize(
    "old, new, said",
    [
        ('["hidden"]', '["hiden"]', "did you mean hidden"),
        ('["hidden"]', '["convolution"]', "found nothing to act on"),
        ('FALLBACK = "sgd"', "", "names no FALLBACK"),
        ('"sgd"', '"sdg"', "did you mean .*sgd"),
        ("fallback_momentum", "fallback_momentun", "did you mean momentum"),
    ],
)
def test_a_wrong_split_is_refused_in_words(old, new, said, tmp_path):
    text = MARKS.replace(old, new)
    if "FALLBACK" not in text:
        text = text.replace(', "fallback_lr": 0.05, "fallback_momentum": 0.95', "")
    with pytest.raises(UserError, match=said):
        written(tmp_path, text, task())


@pytest.mark.parametrize("name", ["schedule_free_adamw", "lawa"])
def test_what_is_evaluated_is_not_what_is_trained_and_leaves_it_alone(name):
    on = task()
    made = submission(name, on)
    train(made, on, 4)
    before, places = values(on), [p.data_ptr() for p in on.params]
    with made.evaluated():
        assert not equal(values(on), before)
    assert equal(values(on), before)
    assert [p.data_ptr() for p in on.params] == places
    watched, unwatched = task(), task()
    ours, other = submission(name, watched), submission(name, unwatched)
    for step in range(STEPS):
        for each, where in ((ours, watched), (other, unwatched)):
            torch.manual_seed(step)
            each.step()
            where.step += 1
        with ours.evaluated():
            pass
    assert equal(values(watched), values(unwatched))


@pytest.mark.parametrize(
    "name", [*NAMES, "sam", "tests/submissions/torch_adamw.py", "tests/submissions/own_step.py"]
)
def test_saved_state_goes_on_bit_for_bit(name, tmp_path):
    """Through a real checkpoint file, at every step."""
    from harness.train import checkpoint

    whole = task()
    train(submission(name, whole), whole)
    for parted in range(1, STEPS):
        first = task()
        made = submission(name, first)
        train(made, first, parted)
        folder = tmp_path / str(parted)
        state = {"task": first.state_dict(), "submission": made.state_dict()}
        checkpoint.save(folder, parted, dict(first.model.state_dict()), state)
        _, tensors, state = checkpoint.load(folder)
        second = task(seed=0)
        made = submission(name, second)
        for key, own in second.model.state_dict().items():
            own.copy_(tensors[key])
        second.load_state_dict(state["task"])
        made.load_state_dict(state["submission"])
        for step in range(parted, STEPS):
            torch.manual_seed(step)
            made.step()
            second.step += 1
        assert equal(values(second), values(whole)), parted


def test_a_schedule_scales_the_rate_of_every_group_of_an_optimizer():
    on = task()
    made = submission("tests/submissions/torch_adamw.py", on)
    from harness.schedules import warmup_cosine

    for step in range(STEPS):
        made.step()
        expected = made.hp.lr * warmup_cosine((step + 0.5) / STEPS, made.hp.warmup)
        assert [group["lr"] for group in made.optimizer.param_groups] == [expected]
        on.step += 1


def test_something_else_than_an_optimizer_is_refused(tmp_path):
    text = "SPACE = {'lr': 1.0}\ndef optimizer(params, hp):\n    return hp.lr\n"
    with pytest.raises(UserError, match=r"optimizer\(\) of mine returned float"):
        written(tmp_path, text, task())


@pytest.mark.parametrize("loss", [torch.ones(3), "low", 1j, torch.tensor(1j), [0.5], object()])
def test_a_loss_that_is_no_number_is_named(loss):
    with pytest.raises(UserError, match=r"step of mine returned (a tensor|str|complex|list|obj)"):
        _checked(loss, "mine")


def test_a_loss_is_kept_without_its_graph():
    for loss in (
        0.5,
        3,
        float("nan"),
        torch.tensor(0.5),
        torch.ones(1),
        torch.ones(()).numpy()[()],
    ):
        assert _checked(loss, "mine") is loss
    leaf = torch.ones(1, requires_grad=True)
    assert not _checked(2 * leaf, "mine").requires_grad


def test_state_counts_wherever_it_is_kept():
    images = torch.zeros(10, 79, dtype=torch.uint8)
    assert kept_bytes({"step": 3, "rates": [0.1, 0.2], "name": "lion"}) == 0
    for kept in ([images], deque([images]), {"x": {1: images}}, images.numpy(), (images[:5],) * 2):
        assert kept_bytes({"kept": kept, "step": 3}) == 790
    assert kept_bytes({"kept": SimpleNamespace(inner=images)}) == 790
    assert kept_bytes({"kept": bytes(5000)}) == 5000
    assert kept_bytes([0.5] * 5000) == 40_000
    (around := [images]).append(around)
    assert kept_bytes(around) == 790


def test_state_bytes_are_the_tensors_a_method_keeps():
    on = task()
    words = sum(-(-p.numel() // 16) * 16 for p in on.params)
    assert submission("lion", on).state_bytes() == 4 * words
    on = task()
    assert submission("tests/submissions/list_lion.py", on).state_bytes() == 4 * sum(
        p.numel() for p in on.params
    )


def test_an_epoch_comes_whole_whatever_the_batches_and_in_order_where_it_is_one():
    from harness.train.order import Shuffled

    order = Shuffled(10, 0)
    assert order.next(20).tolist() == [*range(10)] * 2
    parts = [order.next(n).tolist() for n in (4, 6, 10, 3, 17)]
    assert sorted(parts[0] + parts[1]) == [*range(10)] != parts[0] + parts[1]
    assert parts[2] == [*range(10)]
    assert sorted(parts[3] + parts[4][:7]) == sorted(parts[4][7:]) == [*range(10)]


def test_a_runner_starts_without_a_compiler():
    """Its import takes longer than all others of a runner."""
    code = """
import sys
import harness.train.runner, harness.train.submission
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
