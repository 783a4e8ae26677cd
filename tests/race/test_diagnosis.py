"""`diagnose=true` measures a trial's last weights, and changes nothing of the trial."""

import time

import numpy as np
import pytest
import torch

from harness.catalog import data
from harness.cli import api
from harness.errors import UserError
from harness.race.diagnosis import BATCHES, Diagnosis, noise_scale
from harness.records import run_folder
from harness.report.run.text import verdict_lines
from tests.support import racing, tiny
from tests.support.racing import SMALL_NET, Watcher, planned, race, typed

CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time")


def raced(results, diagnose, submission="adamw"):
    return race(planned(str(SMALL_NET), submission, results, isolation="inline", diagnose=diagnose))


@pytest.fixture
def even_clocks(monkeypatch):
    """Clocks that go on by a microsecond at every call: equal calls give equal times."""

    def reset():
        for name in CLOCKS:
            ticks = iter(range(10**9, 10**12))
            monkeypatch.setattr(time, f"{name}_ns", lambda ticks=ticks: 1000 * next(ticks))
            seconds = iter(range(10**9, 10**12))
            monkeypatch.setattr(time, name, lambda seconds=seconds: next(seconds) / 1e6)

    return reset


def test_trajectory_and_charged_time_are_the_same_to_the_bit(tmp_path, even_clocks):
    logs = []
    for diagnose in (False, True):
        even_clocks()
        outcome = raced(tmp_path / str(diagnose), diagnose)
        assert ("diagnosis" in outcome.record) == diagnose
        logs.append(run_folder.evaluations(racing.log_of(outcome.folder)))
    assert len(logs[0]) > 2
    for plain, diagnosed in zip(*logs, strict=True):
        assert plain["weights"] == diagnosed["weights"]
        for key in ("metrics", "counts", "inside", "outside", "reference_seconds", "interval"):
            assert plain[key] == diagnosed[key], key
    assert raced(tmp_path / "False", False).record["run_id"] == outcome.record["run_id"]


def test_a_record_has_what_was_measured_and_the_verdict_says_it(tmp_path):
    outcome = raced(tmp_path, True)
    found = outcome.record["diagnosis"]
    assert found["step"] == outcome.record["step"]
    assert {"sharpness", "noise_scale", "gradient_norm", "update_hidden"} <= found.keys()
    assert found["sharpness"] > 0
    assert 0 < found["update_hidden"] < 1
    (line,) = [row for row in verdict_lines(outcome.record, None) if row.startswith("diagnosis")]
    assert f"sharpness {found['sharpness']:.3g}" in line
    assert run_folder.finished(outcome.folder)["diagnosis"] == found


def test_a_finished_trial_is_not_diagnosed_in_silence(tmp_path):
    raced(tmp_path, False)
    watcher = Watcher()
    trial = planned(str(SMALL_NET), "adamw", tmp_path, isolation="inline", diagnose=True)
    assert "diagnosis" not in race(trial, watcher).record
    assert any("without diagnose=true" in note for note in watcher.notes)


def diagnosis_of(trial, weights=None):
    """A diagnosis of a trial's problem, and its model with random weights that it has seen."""
    folder = data.prepare(trial.definition, "train", 0)
    found = Diagnosis(trial.definition, folder, "cpu", 0)
    torch.manual_seed(1)
    tensors = {n: 0.3 * torch.randn_like(t) for n, t in found._model.state_dict().items()}
    found.see(10, tensors)
    return found, tensors


def test_sharpness_is_the_largest_eigenvalue_of_the_whole_hessian(tmp_path):
    """Matrix sensing: the batches are all measurements, and there are 24 parameters."""
    trial = tiny.trial("gd", tmp_path)
    found, tensors = diagnosis_of(trial)
    measured = found.result()
    module, config = found._module, found._config
    batch = module.batch(found._data, torch.arange(64), config)
    (name,) = [n for n, _ in found._model.named_parameters()]

    def loss(values):
        inside = {f"model.{name}": values.view_as(tensors[name])}
        return torch.func.functional_call(Whole(found._model, module), inside, (batch,))

    hessian = torch.func.hessian(loss)(tensors[name].flatten()).double()
    values = np.linalg.eigvalsh(hessian.numpy())
    largest = values[np.abs(values).argmax()]
    assert measured["sharpness_residual"] < 0.1
    assert measured["sharpness"] == pytest.approx(largest, rel=1e-2)


class Whole(torch.nn.Module):
    def __init__(self, model, workload):
        super().__init__()
        self.model, self.workload = model, workload

    def forward(self, batch):
        return self.workload.loss(self.model, batch)


def test_the_noise_scale_is_that_of_known_gradients():
    assert noise_scale(5.0, 1.2, 8, 8)["noise_scale"] == pytest.approx(52.8696, rel=1e-5)
    random = np.random.default_rng(0)
    mean, spread, batch, rounds = np.full(50, 0.2), 1.5, 4, 4000
    g = mean + spread / 2 * random.standard_normal((rounds, BATCHES, 50))
    small, large = (g**2).sum(2).mean(), (g.mean(1) ** 2).sum(1).mean()
    found = noise_scale(small, large, batch, BATCHES)
    assert found["gradient_norm"] == pytest.approx(np.sqrt(50) * 0.2, rel=0.02)
    assert found["gradient_variance"] == pytest.approx(50 * spread**2, rel=0.02)
    assert found["noise_scale"] == pytest.approx(50 * spread**2 / 2.0, rel=0.04)


def test_updates_are_relative_changes_a_step(tmp_path):
    found, tensors = diagnosis_of(planned(str(SMALL_NET), "adamw", tmp_path))
    found.see(14, {n: 1.02 * t for n, t in tensors.items()})
    measured = found.result()
    assert measured["step"] == 14
    updates = [v for k, v in measured.items() if k.startswith("update_")]
    assert updates
    assert all(v == pytest.approx(0.02 / 1.02 / 4, rel=1e-4) for v in updates)


def test_one_evaluation_has_no_updates_and_a_weight_that_is_not_finite_no_numbers(tmp_path):
    found, tensors = diagnosis_of(planned(str(SMALL_NET), "adamw", tmp_path))
    assert not [k for k in found.result() if k.startswith("update_")]
    found.see(11, {n: torch.full_like(t, torch.nan) for n, t in tensors.items()})
    measured = found.result()
    assert measured["sharpness"] is None
    assert measured["noise_scale"] is None


@pytest.mark.parametrize("name, word", [("blackbox", "forward passes"), ("game", "track")])
def test_a_workload_without_a_loss_to_differentiate_is_refused(name, word, tmp_path):
    submission = {"blackbox": "mezo", "game": "extragradient"}[name]
    with pytest.raises(UserError, match=word):
        planned(name, submission, tmp_path, diagnose=True)
    code, _, err = typed(f"workload={name}", f"submission={submission}", "diagnose=true")
    assert code == 2
    assert "diagnose=true" in err


def test_the_api_takes_the_setting(tmp_path):
    result = api.race(str(SMALL_NET), "adamw", results=str(tmp_path), diagnose=True,
                      quiet=True, isolation="inline", tracker="none")  # fmt: skip
    assert result.record["diagnosis"]["sharpness"] is not None
