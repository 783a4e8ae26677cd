"""Classes of installed packages: what they ask of their caller is offered, or named."""

import pytest
import torch

from harness.catalog import discover, optimizer_classes, space
from harness.errors import UserError
from harness.train.submission import Submission
from tests.train.test_submission import STEPS, equal, task, train, values

OPTIMIZER = ["submission=optimizer", "class=torch.optim.Muon"]


def submission(target, on, **hp):
    card = discover.read(discover.find(target))
    declared = card.literals["SPACE"]
    hp = {key: space.check(declared, key, value, target) for key, value in hp.items()}
    return Submission(card, space.default(declared) | hp, on)


def test_the_command_line_names_what_is_offered():
    words = [*OPTIMIZER, "handles=hidden", "fallback=adamw", "keys=rank:4+scale:0.5", "seed=1"]
    assert optimizer_classes.expanded(words) == [
        "seed=1",
        "submission.handles=hidden",
        'submission.keys="rank:4+scale:0.5"',
        "submission=torch.optim.Muon+adamw",
    ]
    with pytest.raises(UserError, match="handles=hidden: no class="):
        optimizer_classes.expanded(["submission=adamw", "handles=hidden"])


@pytest.mark.parametrize(
    "target, hp",
    [
        ("torch.optim.Muon+adamw", {"lr": 0.02, "fallback_lr": 0.003}),
        ("torch.optim.LBFGS", {"lr": 0.1}),
        ("torch.optim.Adafactor", {"lr": 0.01}),
        ("pytorch_optimizer.Muon", {"lr": 0.02, "fallback_lr": 0.001}),
        ("pytorch_optimizer.SAM", {"lr": 0.05, "inner": "torch.optim.SGD"}),
        pytest.param(
            "pytorch_optimizer.Lookahead",
            {"lr": 0.05, "inner": "torch.optim.SGD"},
            marks=pytest.mark.slow,
        ),
        pytest.param("pytorch_optimizer.SophiaH", {"lr": 0.01}, marks=pytest.mark.slow),
        pytest.param("pytorch_optimizer.AdamMini", {"lr": 0.01}, marks=pytest.mark.slow),
        pytest.param(
            "pytorch_optimizer.Ranger21",
            {"lr": 0.01, "num_iterations": STEPS},
            marks=pytest.mark.slow,
        ),
        pytest.param("pytorch_optimizer.AliG", {}, marks=pytest.mark.slow),
        (
            "pytorch_optimizer.GaLore",
            {"lr": 0.01, "keys": "rank:2+update_proj_gap:2+scale:0.25+projection_type:std"},
        ),
        ("schedulefree.AdamWScheduleFree", {"lr": 0.01}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore")
def test_a_class_trains_and_goes_on_from_a_checkpoint(target, hp, tmp_path):
    from harness.train import checkpoint

    whole, first = task(), task()
    before = values(whole)
    train(submission(target, whole, **hp), whole)
    assert not equal(before, values(whole))
    half = STEPS // 2
    made = submission(target, first, **hp)
    train(made, first, half)
    state = {"task": first.state_dict(), "submission": made.state_dict()}
    checkpoint.save(tmp_path, half, dict(first.model.state_dict()), state)
    _, tensors, state = checkpoint.load(tmp_path)
    second = task()
    made = submission(target, second, **hp)
    for key, own in second.model.state_dict().items():
        own.copy_(tensors[key])
    second.load_state_dict(state["task"])
    made.load_state_dict(state["submission"])
    for step in range(half, STEPS):
        torch.manual_seed(step)
        made.step()
        second.step += 1
        with made.evaluated():
            pass
    assert equal(values(second), values(whole))


def test_muon_takes_the_matrices_and_the_fallback_the_others_with_its_own_schedule():
    on, peer = task(), task()
    made = submission("torch.optim.Muon+sgd", on, lr=0.02)
    shapes = [p.shape for group in made.optimizer.param_groups for p in group["params"]]
    assert shapes == [(4, 4), (4, 4)]
    train(made, on, 1)
    card = discover.read(discover.find("sgd"))
    train(Submission(card, space.default(card.literals["SPACE"]), peer), peer, 1)
    for name, value in values(on).items():
        same = torch.allclose(value, values(peer)[name])
        assert same == (name not in ("used.weight", "unused.weight")), name


@pytest.mark.parametrize("target, passes", [("torch.optim.LBFGS", 2), ("pytorch_optimizer.SAM", 2)])
@pytest.mark.filterwarnings("ignore")
def test_every_evaluation_of_a_closure_is_a_counted_pass(target, passes):
    on = task()
    hp = {"inner": "torch.optim.SGD"} if passes and "SAM" in target else {"max_iter": 2}
    train(submission(target, on, lr=0.05, **hp), on, 3)
    assert on.meter.counts["forward_backward"] >= 3 * passes


@pytest.mark.parametrize(
    "target, hp, says",
    [
        ("torch.optim.Muon", {}, "handles=hidden fallback=adamw"),
        ("torch.optim.Muon", {"handles": "hidden"}, "fallback=adamw"),
        ("torch.optim.Muon+adamw", {"handles": "factor"}, "nothing to act on"),
        ("torch.optim.AdamW", {"inner": "torch.optim.SGD"}, "wraps no optimizer"),
        ("torch.optim.Muon+sam", {}, "owns its step"),
        ("torch.optim.Muon+adamww", {}, "did you mean .*adamw"),
        ("torch.optim.AdamW", {"fallback_lr": 0.1}, "without a fallback"),
        ("torch.optim.AdamW", {"keys": "rank"}, "name:value"),
        ("torch.optim.AdamW", {"weight_decay": -1.0}, "constructor fails.*weight_decay"),
        ("torch.optim.SparseAdam", {}, "step fails.*dense"),
        ("pytorch_optimizer.Lookahead", {}, "inner=torch.optim.SGD"),
        ("pytorch_optimizer.Ranger21", {}, "submission.num_iterations=VALUE"),
        ("pytorch_optimizer.GaLore", {}, "looks for rank.*keys=none"),
        ("pytorch_optimizer.AdamWSN", {}, "looks for sn"),
        ("pytorch_optimizer.AdamC", {}, "looks for normalized"),
        ("pytorch_optimizer.Muon+adamw", {}, "leave fallback= out"),
        ("pytorch_optimizer.AdamMini", {"handles": "hidden"}, "whole model"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_stands_in_the_way_is_named_with_what_to_type(target, hp, says):
    on = task()

    def race():
        train(submission(target, on, lr=0.01, **hp), on, 1)

    with pytest.raises(UserError, match=says):
        race()


@pytest.mark.parametrize(
    "target, most",
    [
        ("torch.optim.AdamW", 1),
        ("torch.optim.LBFGS", 25),
        ("pytorch_optimizer.SAM", 2),
        ("pytorch_optimizer.BSAM", 3),
        ("schedulefree.AdamWScheduleFreeClosure", 1),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_budget_counts_the_passes_of_a_closure(target, most):
    card = discover.read(discover.find(target))
    assert card.literals.get("PASSES", {"forward_backward": 1}) == {"forward_backward": most}


def test_a_class_may_look_for_keys_that_it_is_told_to_do_without():
    on = task()
    train(submission("pytorch_optimizer.GaLore", on, lr=0.01, keys="none"), on, 1)


def test_a_group_without_learning_rate_is_left_to_its_optimizer(tmp_path):
    path = tmp_path / "own_rate.py"
    path.write_text(
        '"""Without a learning rate."""\nimport torch\nSPACE = {"warmup": 0.1}\n'
        "class Rate(torch.optim.Optimizer):\n"
        "    def __init__(self, params):\n        super().__init__(params, {})\n"
        "    def step(self, closure=None):\n        pass\n"
        "def optimizer(params, hp):\n    return Rate(params)\n"
    )
    on = task()
    card = discover.read(discover.Plugin("own_rate", path, "", None))
    train(Submission(card, space.default(card.literals["SPACE"]), on), on, 1)
