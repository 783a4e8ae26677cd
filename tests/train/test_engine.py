"""Laws of what an engine does to the passes: shards, precision, recomputation."""

import pytest
import torch

from harness.catalog import discover
from harness.catalog.space import default
from harness.errors import UserError
from harness.laws import small_workloads
from harness.race import configuration
from harness.records import run, run_folder, schema
from harness.seeds import derive
from harness.train import depth, engine, sharded
from harness.train.meter import touched
from harness.train.submission import Submission
from tests.support import ranks
from tests.support.racing import SMALL_NET, curve, planned, race, trial

CPU = {"device": "cpu", "threads": 1, "deterministic": True}
# Relative differences of a loss after STEPS steps. SOAP's eigenvectors amplify the last bits.
TOLERANCE = {"adamw": 1e-4, "lion": 1e-3, "muon": 1e-3, "adafactor": 1e-3, "soap": 3e-3}
SHARDED = tuple(TOLERANCE)
STEPS = 8


def divided_training(group, names):
    """Return weights, bytes of state and the error of a resumed run, of methods on shards."""
    return {name: one_divided(group, name) for name in names}


def one_divided(group, name):
    small = small_workloads.read("gpt2")
    module, config, data = small_workloads._loaded(small)
    torch.manual_seed(derive(0, "init"))
    values = module, config, dict(data), module.model(config), 0, small.horizon
    task = sharded.ShardedTask(*values)
    task.join(group, None)
    card = discover.read(discover.find(name))
    submission = sharded.ShardedSubmission(card, default(card.literals["SPACE"]), task)
    advance(task, submission)
    with submission.evaluated():
        weights = sharded.whole(task.model.state_dict())
    kept = submission.state_dict()
    # A second one goes on from the state of the first.
    again = sharded.ShardedTask(*values[:3], module.model(config), *values[4:])
    again.join(group, None)
    other = sharded.ShardedSubmission(card, default(card.literals["SPACE"]), again)
    again.load(sharded.whole(task.model.state_dict()))
    again.load_state_dict(task.state_dict())
    other.load_state_dict(group.broadcast(kept))
    advance(task, submission, 2)
    advance(again, other, 2)
    ends = [sharded.whole(each.model.state_dict()) for each in (task, again)]
    apart = max(
        float((a - b).abs().max()) for a, b in zip(*(e.values() for e in ends), strict=True)
    )
    return weights | {
        "state_bytes": torch.tensor(submission.state_bytes()),
        "apart": torch.tensor(apart),
    }


def advance(task, submission, steps=STEPS):
    for _ in range(steps):
        torch.manual_seed(derive(0, "step", task.step))
        submission.step()
        task.step += 1


@pytest.mark.parametrize("names", [SHARDED[:1], pytest.param(SHARDED[1:], marks=pytest.mark.slow)])
def test_divided_weights_train_as_whole_ones_and_go_on_from_a_checkpoint(names, tmp_path):
    results = ranks.run(divided_training, 2, tmp_path, names)
    for name in names:
        task = small_workloads.read("gpt2").task()
        card = discover.read(discover.find(name))
        torch.manual_seed(derive(0, "setup"))
        submission = Submission(card, default(card.literals["SPACE"]), task)
        advance(task, submission)
        with submission.evaluated():
            whole = {k: v.clone() for k, v in task.model.state_dict().items()}
        small = small_workloads.read("gpt2")
        parts = {k: v for k, v in results[0][name].items() if k in whole}
        assert parts.keys() == whole.keys()
        losses = [small.judge(tensors, depth.depth(task.model)) for tensors in (parts, whole)]
        assert losses[0] == pytest.approx(losses[1], rel=TOLERANCE[name]), name
        assert results[0][name]["apart"] == 0.0, name
        assert results[0][name]["state_bytes"] < 0.8 * submission.state_bytes(), name


def refused(group, name):
    task = ranks.small_task(group, "gpt2")
    card = discover.read(discover.find(name))
    with pytest.raises(UserError) as error:
        sharded.ShardedSubmission(card, default(card.literals["SPACE"]), task)
    return str(error.value)


def all_refused(group):
    return [refused(group, name) for name in ("sam", "lora")]


def test_what_cannot_train_on_divided_weights_is_refused_by_name(tmp_path):
    step, model = ranks.run(all_refused, 2, tmp_path)[0]
    assert "sam owns its step: it cannot train on divided weights" in step
    assert "lora changes the model" in model
    assert "engine.shard=false" in step


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": True}, "engine.processes=2 engine.shard=true"),
        ({"precision": "fp8"}, "fp16"),
        ({"precision": "fp16", "processes": 2, "shard": True}, "engine.precision=bf16"),
        ({"pinned": True}, "engine=gpu"),
        ({"compile": "yes"}, "engine.compile=yes"),
        ({"processes": 0}, "a whole number from 1 up"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_what_to_type(options, message):
    with pytest.raises(UserError, match=message):
        configuration.engine_for(CPU | options, "mini")


def test_a_compiler_and_a_closed_machine_exclude_each_other():
    with pytest.raises(UserError, match="isolation=process"):
        configuration.processes_of(CPU | {"compile": True}, "strict")


def test_options_that_change_nothing_are_not_recorded():
    chosen = configuration.engine_for(configuration.engine_named("cpu"), "mini")
    assert chosen == CPU


def with_engine(options, results, isolation="inline"):
    return planned(str(SMALL_NET), "adamw", results, engine=CPU | options, isolation=isolation)


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["process", "strict"])
def test_a_race_on_divided_weights_is_that_of_one_process(isolation, tmp_path):
    one = race(trial("adamw", tmp_path / "one"))
    shards = {"processes": 2, "shard": True}
    two = race(with_engine(shards, tmp_path / "two", isolation))
    assert two.outcome == "out_of_budget", two.record["reason"]
    for a, b in zip(curve(one.folder), curve(two.folder), strict=True):
        assert a["metrics"] == pytest.approx(b["metrics"], rel=1e-4)
    assert two.record["hooked"] == "torch's fully_shard"
    assert two.record["state_bytes"] < 0.8 * one.record["state_bytes"]


@pytest.mark.slow
def test_a_compiled_race_is_near_the_plain_one(tmp_path):
    plain = curve(race(trial("adamw", tmp_path / "one")).folder)
    outcome = race(with_engine({"compile": True}, tmp_path / "two", "process"))
    assert outcome.outcome == "out_of_budget", outcome.record["reason"]
    assert curve(outcome.folder)[-1]["metrics"] == pytest.approx(plain[-1]["metrics"], rel=1e-4)


def test_a_race_in_bfloat16_is_near_that_in_float32_and_not_equal(tmp_path):
    whole = curve(race(trial("adamw", tmp_path / "one")).folder)
    half = curve(race(with_engine({"precision": "bf16"}, tmp_path / "two")).folder)
    assert half[-1]["metrics"] == pytest.approx(whole[-1]["metrics"], rel=0.02)
    assert half[-1]["metrics"] != whole[-1]["metrics"]


def test_recomputed_blocks_have_the_same_gradients_and_are_not_taken_for_hooks():
    small = small_workloads.read("gpt2")
    task, other = small.task(), small.task()
    engine.recompute(other.model)
    batch = task.next_batch()
    task.forward_backward(batch)
    other.forward_backward(batch)
    for p, q in zip(task.params, other.params, strict=True):
        assert torch.equal(p.grad, q.grad)
    assert touched(other.model) is None
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        task._workload.loss(task.model, batch)
        first = len(kept)
        other._workload.loss(other.model, batch)
    assert len(kept) - first < first / 2
    with pytest.raises(UserError, match="checkpointing"):
        engine.recompute(torch.nn.Linear(2, 2))


def test_records_of_other_engines_are_not_compared_with_those_of_the_usual_one(tmp_path):
    usual = race(trial("adamw", tmp_path / "one")).record
    half = race(with_engine({"precision": "bf16"}, tmp_path / "two")).record
    schema.check(half | {"schema": run_folder.SCHEMA})
    assert run.key_of(usual) == "small_net.mini"
    assert run.key_of(half) == "small_net.mini@bf16"
    assert (
        run.key_of(usual | {"processes": 2, "options": ["shard"]}) == "small_net.mini@2ranks@shard"
    )
    with pytest.raises(ValueError, match="processes"):
        schema.check(half | {"schema": run_folder.SCHEMA, "processes": 0})
