"""Laws of the GPU path. `benches/gpu.sh` runs them; no other test needs a GPU."""

import pytest
import torch

from harness.catalog import discover
from harness.laws import small_workloads
from harness.train import checkpoint, engine, opening, shared_weights
from tests.support.racing import SMALL_NET, curve, planned, race, trial

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]
GPU = {"device": "cuda", "threads": 1, "deterministic": False}


def task_on(device, options=None, pinned=False):
    small = small_workloads.read("gpt2")
    module, config, data = small_workloads._loaded(small)
    torch.manual_seed(0)
    model = module.model(config).to(device)
    functions = engine.prepared(module, model, options or {}, device)
    placed = {k: v.to(device) if isinstance(v, torch.Tensor) and not pinned else v
              for k, v in data.items()}  # fmt: skip
    values = functions, config, placed, model, 0, small.horizon
    task = opening.task_of(values, None, None, options or {}, None)
    task.pinned = pinned
    return task


def gradients(task):
    task.forward_backward(task.next_batch())
    return [p.grad.cpu().float() for p in task.params]


def apart(ours, theirs):
    return max(
        float((a - b).abs().max() / (b.abs().max() + 1e-6))
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize(
    ("options", "pinned", "tolerance"),
    [
        ({}, False, 1e-3),
        ({}, True, 1e-3),
        ({"precision": "bf16"}, False, 0.1),
        ({"precision": "fp16"}, False, 0.1),
        ({"checkpointing": True}, False, 1e-3),
        ({"compile": True}, False, 1e-3),
    ],
)
def test_gradients_are_those_of_the_cpu(options, pinned, tolerance):
    assert apart(gradients(task_on("cuda", options, pinned)), gradients(task_on("cpu"))) < tolerance


def test_events_measure_the_passes():
    task = task_on("cuda")
    begun = task.meter.now()
    for _ in range(5):
        task.forward_backward(task.next_batch())
    wall = task.meter.now() - begun
    assert 0 < task.meter.inside()["forward_backward"] <= wall


@pytest.mark.parametrize("submission", ["adamw", "muon", "soap"])
def test_a_race_on_a_gpu_is_near_that_on_a_cpu(submission, tmp_path):
    assert discover.find(submission)
    one = curve(race(trial(submission, tmp_path / "one")).folder)
    planned_there = planned(
        str(SMALL_NET), submission, tmp_path / "two", engine=GPU, isolation="process"
    )
    other = curve(race(planned_there).folder)
    assert other[-1]["metrics"] == pytest.approx(one[-1]["metrics"], rel=1e-2)


def test_a_deterministic_race_on_a_gpu_repeats_to_the_bit(tmp_path):
    engine = GPU | {"deterministic": True}
    curves = [
        curve(race(planned(str(SMALL_NET), "adamw", tmp_path / name, engine=engine)).folder)
        for name in ("one", "two")
    ]
    assert curves[0] == curves[1]


def test_a_checkpoint_brings_tensors_back_to_the_gpu(tmp_path):
    state = {"moments": torch.ones(3, device="cuda"), "numbers": torch.arange(3)}
    checkpoint.save(tmp_path, 1, {}, state)
    content = checkpoint.newest_content(tmp_path)
    _, _, there = checkpoint.restored(content, "cuda")
    assert [t.device.type for t in there.values()] == ["cuda", "cpu"]
    _, _, here = checkpoint.restored(content)
    assert [t.device.type for t in here.values()] == ["cpu", "cpu"]


def test_ranks_compare_checksums_of_weights_on_gpus():
    weights = {"w": torch.randn(5), "b": torch.zeros(())}
    there = {name: t.to("cuda") for name, t in weights.items()}
    assert shared_weights.digest(there) == shared_weights.digest(weights)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees one GPU")
def test_events_are_those_of_the_tasks_own_gpu():
    task = task_on("cuda:1")
    begun = task.meter.now()
    task.forward_backward(task.next_batch())
    assert 0.5 * (task.meter.now() - begun) < task.meter.inside()["forward_backward"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees one GPU")
def test_two_gpus_train_as_one_process_does(tmp_path):
    one = curve(race(trial("adamw", tmp_path / "one")).folder)
    two = planned(
        str(SMALL_NET), "adamw", tmp_path / "two", engine=GPU | {"processes": 2},
        isolation="process",
    )  # fmt: skip
    assert curve(race(two).folder)[-1]["metrics"] == pytest.approx(one[-1]["metrics"], rel=1e-2)
