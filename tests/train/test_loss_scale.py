"""Laws of passes in float16: the scale of the loss is that of torch's GradScaler."""

import copy
from types import SimpleNamespace

import pytest
import torch

from benches.overhead import SUBMISSION
from harness.catalog import discover
from harness.catalog.space import default
from harness.errors import UserError
from harness.laws import small_workloads
from harness.race import configuration
from harness.records import run, run_folder, schema
from harness.seeds import derive
from harness.train import checkpoint, engine, loss_scale, opening
from harness.train.submission import Submission
from tests.support import ranks
from tests.support.racing import SMALL_NET, curve, planned, race, trial

FP16 = {"precision": "fp16"}
FIRST = 2.0**16
# Steps whose loss is so large that its gradients overflow in float16.
HUGE = (1, 4)
STEPS = 7


def fp16_task(group=None, seed=0):
    """Return a task of gpt2's small form in float16; losses of the steps in HUGE overflow."""
    small = small_workloads.read("gpt2")
    module, config, data = small_workloads._loaded(small)
    torch.manual_seed(seed)
    model = module.model(config)
    functions = engine.prepared(module, model, FP16, "cpu")
    plain = functions.loss

    def loss(model, batch):
        return plain(model, batch) * (1e30 if overflows() else 1.0)

    def overflows():
        # Of two ranks, only one sees the large loss.
        return task.step in HUGE and (group is None or group.rank == 1)

    functions.loss = loss
    values = functions, config, dict(data), model, 0, small.horizon
    task = opening.task_of(values, None, None, FP16, group)
    return task


def card_of(folder):
    file = folder / "torch_adamw.py"
    file.write_text(SUBMISSION)
    return discover.read(discover.find(str(file)))


def submission_on(task, card):
    return Submission(card, default(card.literals["SPACE"]), task)


def advance(task, submission, until):
    while task.step < until:
        torch.manual_seed(derive(0, "step", task.step))
        submission.step()
        task.step += 1


def weights(task):
    return [p.detach().clone() for p in task.params]


def scale_of(task):
    return task.loss_scale.state_dict()["scaler"]["scale"]


def bare_loop(steps):
    """Return weights and scale after so many steps of the loop of torch's documentation."""
    source = fp16_task()
    model = copy.deepcopy(source.model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=4e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    scaler = torch.amp.GradScaler("cpu")
    module = small_workloads._loaded(small_workloads.read("gpt2"))[0]
    for step in range(steps):
        batch = source.next_batch()
        torch.manual_seed(derive(0, "step", step))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = module.loss(model, batch).float()
        scaler.scale(loss * (1e30 if step in HUGE else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
    return [p.detach() for p in model.parameters()], scaler.get_scale()


def test_steps_are_those_of_a_loop_with_torchs_scaler(tmp_path):
    task = fp16_task()
    advance(task, submission := submission_on(task, card_of(tmp_path)), STEPS)
    expected, scale = bare_loop(STEPS)
    assert all(torch.equal(p, q) for p, q in zip(weights(task), expected, strict=True))
    assert scale_of(task) == scale == FIRST / 4
    assert task.loss_scale.skipped == len(HUGE)
    steps = {int(state["step"]) for state in submission.optimizer.state.values()}
    assert steps == {STEPS - len(HUGE)}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_step_that_overflows_changes_nothing_but_the_scale(name):
    task = fp16_task()
    card = discover.read(discover.find(name))
    submission = submission_on(task, card)
    advance(task, submission, 1)
    before, state = weights(task), copy.deepcopy(submission.state_dict())
    advance(task, submission, 2)
    assert task.overflowed
    assert all(torch.equal(p, q) for p, q in zip(before, weights(task), strict=True))
    assert str(submission.state_dict()) == str(state)
    assert scale_of(task) == FIRST / 2
    advance(task, submission, 3)
    assert not task.overflowed
    assert not torch.equal(before[0], weights(task)[0])


def test_a_submission_sees_gradients_without_the_scale():
    task = fp16_task()
    batch = task.next_batch()
    task.forward_backward(batch)
    once = [p.grad.clone() for p in task.params]
    task.forward_backward(batch, accumulate=True)
    assert all(torch.equal(p.grad, 2 * g) for p, g in zip(task.params, once, strict=True))
    plain = small_workloads.read("gpt2").task()
    plain.model.load_state_dict(task.model.state_dict())
    plain.forward_backward(batch)
    for p, g in zip(plain.params, once, strict=True):
        assert float((p.grad - g).norm()) <= 0.02 * float(p.grad.norm()) + 1e-6


def test_the_scale_survives_a_checkpoint_bit_by_bit(tmp_path):
    card, task = card_of(tmp_path), fp16_task()
    submission = submission_on(task, card)
    advance(task, submission, 3)
    state = {"task": task.state_dict(), "submission": submission.state_dict()}
    (tmp_path / "kept").mkdir()
    checkpoint.save(tmp_path / "kept", 3, dict(task.model.state_dict()), state)
    advance(task, submission, STEPS)
    _, tensors, state = checkpoint.load(tmp_path / "kept")
    again = fp16_task(seed=1)
    other = submission_on(again, card)
    again.model.load_state_dict(tensors)
    again.load_state_dict(state["task"])
    other.load_state_dict(state["submission"])
    assert scale_of(again) == FIRST / 2
    advance(again, other, STEPS)
    assert all(torch.equal(p, q) for p, q in zip(weights(task), weights(again), strict=True))
    assert again.loss_scale.state_dict() == task.loss_scale.state_dict()


def test_the_scale_doubles_after_many_finite_passes():
    task = fp16_task()
    state = task.loss_scale.state_dict()
    state["scaler"] |= {"scale": 1024.0, "_growth_tracker": 1998}
    task.loss_scale.load_state_dict(state)
    scales = []
    for _ in range(3):
        task.forward_backward(task.next_batch())
        scales.append(scale_of(task))
    assert scales == [1024.0, 2048.0, 2048.0]


def overflow_on_one(group, folder):
    task = fp16_task(group)
    advance(task, submission_on(task, discover.read(discover.find("adamw"))), STEPS)
    tensors = {str(i): w for i, w in enumerate(weights(task))}
    return tensors | {"scale": torch.tensor(scale_of(task))}


def test_ranks_skip_the_same_steps(tmp_path):
    first, second = ranks.run(overflow_on_one, 2, tmp_path, tmp_path)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert float(first["scale"]) == FIRST / 4


def test_what_cannot_run_in_float16_is_refused_by_name(tmp_path):
    for name, message in (("sam", "sam owns its step"), ("torch.optim.LBFGS", "calls a closure")):
        with pytest.raises(UserError, match=message) as error:
            submission_on(fp16_task(), discover.read(discover.find(name)))
        assert "engine.precision=bf16" in str(error.value)
    task = fp16_task()
    with pytest.raises(UserError, match="'hvp' are not scaled"):
        task.hvp(task.next_batch(), [torch.ones_like(p) for p in task.params])
    with pytest.raises(UserError, match="its own arithmetic"):
        loss_scale.check_numbers(SimpleNamespace(arithmetic="fp8"))
    task.step = HUGE[0]
    task.forward_backward(task.next_batch())
    with pytest.raises(UserError, match="before training are not finite"):
        submission_on(task, card_of(tmp_path))


def test_a_race_in_float16_is_near_that_in_float32_and_says_what_it_skipped(tmp_path):
    whole = curve(race(trial("adamw", tmp_path / "one")).folder)
    chosen = configuration.engine_for(configuration.engine_named("cpu") | FP16, "mini")
    half = race(
        planned(str(SMALL_NET), "adamw", tmp_path / "two", engine=chosen, isolation="inline")
    )
    metrics = curve(half.folder)[-1]["metrics"]
    assert metrics == pytest.approx(whole[-1]["metrics"], rel=0.02)
    assert metrics != whole[-1]["metrics"]
    schema.check(half.record | {"schema": run_folder.SCHEMA})
    assert run.key_of(half.record) == "small_net.mini@fp16"
    assert half.record["skipped_steps"] == 0
