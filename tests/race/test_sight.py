"""Laws of sight: what a submission must not see never enters its process, or cannot be used there.

A cheat is a file that a test writes; its honest twin is the same file with the cheat left out, or a
shipped submission. More cheats are in tests/cheats.
"""

import json
import os
import signal

import pytest
import torch

from harness.catalog import data, definition, discover, key
from harness.errors import UserError
from harness.race.arrivals import Arrivals
from harness.records.log import rows
from harness.system import sandbox
from harness.train import arrival
from tests.support import racing, tiny
from tests.support.racing import ROOT, Watcher, race

STEP = """
    def step(self):
        loss = self.task.forward_backward(self.task.next_batch())
        with torch.no_grad():
            for p in self.task.params:
                p.sub_(p.grad, alpha=0.05)
        self.after()
        return loss

    def after(self):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
"""
HEAD = '"""Descent."""\nimport torch\nTRACKS = ["train", "finetune", "continual"]\nSPACE = {}\n'
HONEST = f"{HEAD}\nclass Algorithm:\n    def __init__(self, task, hp):\n        self.task = task\n"
# Says how many examples its process has, and how many labels it has not been given.
LOOKING = """
    def after(self):
        images = self.task._data["images"]
        print("HAS", self.task.step, int((images.sum(1) > 0).sum()), flush=True)
"""
# Trains all weights, reports none of them as trained, and merges the change.
HIDING = '''
from harness import surgery

class Hiding(surgery.Adapted):
    """A matrix with an extra buffer, so that the hand-over is a merged one."""
    def __init__(self, linear):
        super().__init__(linear)
        self.register_buffer("extra", torch.zeros(1))
    def dense(self):
        return self.weight
    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight, self.bias)

class Algorithm:
    def __init__(self, task, hp):
        self.task = task
        surgery.replace(task.model, Hiding)
        self.all = [*task.model.parameters()]
        for p in self.all:
            p.requires_grad_(False)
    def step(self):
        for p in self.all:
            p.requires_grad_(True)
        loss = self.task.forward_backward(self.task.next_batch())
        for p in self.all:
            p.requires_grad_(False)
            p.sub_(p.grad, alpha=0.01)
        return loss
    def state_dict(self):
        return {}
    def load_state_dict(self, state):
        pass
'''
LOADING = """
    def after(self):
        if self.task.step == 0:
            from torch.utils.data import DataLoader, TensorDataset
            loader = DataLoader(TensorDataset(torch.arange(8)), batch_size=4, num_workers=1)
            print("LOADED", [part[0].tolist() for part in loader], flush=True)
"""


def planned(submission, workload, results, isolation="process", numbers=None):
    """Return a short trial of a submission's name or file on a shipped workload."""
    return racing.planned(workload, submission, results, numbers=numbers, isolation=isolation)


def written(folder, text, name="looking.py"):
    (folder / name).write_text(text)
    return folder / name


def said(outcome):
    return (outcome.folder / "runner.log").read_text()


def test_a_predictor_is_refused_where_inputs_hold_the_answers(tmp_path):
    own = "\ndef predict(algorithm, inputs):\n    return algorithm.task.model(inputs)\n"
    file = written(tmp_path, HONEST + STEP + own)
    for workload in ("gpt2", "ft_gpt2", "stream_text"):
        with pytest.raises(UserError, match="own predict") as refused:
            planned(file, workload, tmp_path)
        assert "predict: true" in refused.value.allowed
    # The configuration cannot allow it; the workload's file does.
    numbers = definition.tree_of("gpt2") | {"predict": True}
    assert not definition.allows_predictor(definition.define("gpt2", numbers, "mini", None))
    assert planned(file, "stream_split", tmp_path).card.plugin.path == file


def test_every_submission_that_predicts_may_do_so_where_it_has_raced():
    lines = (ROOT / "results" / "board").rglob("*.jsonl")
    runs = [json.loads(line) for path in lines for line in path.read_text().splitlines()]
    raced = {run["workload"] for run in runs if run.get("own_predictor")}
    trees = {name: definition.tree_of(name) for name in raced}
    assert [name for name, tree in trees.items() if tree.get("predict") is not True] == []


def test_a_key_of_ones_own_draws_another_problem_and_is_another_run(tmp_path, monkeypatch):
    public = tiny.trial("adamw", tmp_path)
    before = {s: data.prepare(public.definition, s) for s in ("train", "val")}
    assert "key" not in public.describe()
    assert key.seed_of(7) == 7
    monkeypatch.setenv(key.VARIABLE, "of this referee")
    mine = tiny.trial("adamw", tmp_path)
    after = {s: data.prepare(mine.definition, s) for s in ("train", "val")}
    assert mine.run_id != public.run_id
    assert mine.describe()["key"] == key.fingerprint()
    assert "of this referee" not in json.dumps([mine.message(), mine.describe()])
    assert key.seed_of(7) != 7
    truths = [data.open_data(folders["val"])["truth"] for folders in (before, after)]
    assert not torch.allclose(*truths)
    # Training data and truth are of the same problem.
    module, given = definition.load_workload(mine.definition), data.open_data(after["train"])
    measured = given["design"] @ module.pack(truths[1][0])
    assert torch.allclose(measured, given["measurements"], atol=1e-10)
    monkeypatch.setenv(key.VARIABLE, "of another")
    assert tiny.trial("adamw", tmp_path).run_id not in (mine.run_id, public.run_id)


def test_a_part_brings_its_examples_and_takes_those_before_away(tmp_path):
    whole = {"x": torch.arange(1, 7), "names": torch.arange(3), "scale": torch.tensor(2.0)}
    for task, order in enumerate(([3, 1, 3], [0, 5, 4])):
        path = tmp_path / f"{task}.safetensors"
        arrival.write(path, whole, 6, torch.tensor(order), 3 * task)
    held: dict = {"names": whole["names"]}
    order, first = arrival.receive(tmp_path / "0.safetensors", held, torch.device("cpu"))
    assert (order.tolist(), first) == ([3, 1, 3], 0)
    assert held["x"].tolist() == [0, 2, 0, 4, 0, 0]
    order, first = arrival.receive(tmp_path / "1.safetensors", held, torch.device("cpu"))
    assert (order.tolist(), first) == ([0, 5, 4], 3)
    assert held["x"].tolist() == [1, 0, 0, 0, 5, 6]
    assert "scale" not in held


@pytest.mark.slow
def test_a_stream_trains_alike_though_a_runner_has_one_task_at_a_time(tmp_path):
    """The cheat counts the examples in its process; the honest twin's weights are the same."""
    numbers = {"horizon": 10, "batch": 10}
    looking = written(tmp_path, HONEST + STEP + LOOKING)
    twin = written(tmp_path, HONEST + STEP, "twin.py")
    levels = ["process", *["strict"] * sandbox.offered()]
    inline = race(planned(twin, "stream_split", tmp_path, "inline", numbers=numbers))
    for level in levels:
        outcome = race(planned(looking, "stream_split", tmp_path, level, numbers=numbers))
        seen = [line.split() for line in said(outcome).splitlines() if line.startswith("HAS")]
        # Two steps of ten examples a task.
        assert [int(words[2]) for words in seen] == [20] * 10
        weights = [[row.get("weights") for row in log_of(o)] for o in (outcome, inline)]
        assert weights[0] == weights[1]


def log_of(outcome):
    return [r for r in rows(outcome.folder / "log.jsonl") if r["event"] == "evaluation"]


@pytest.mark.slow
def test_a_stream_continues_in_a_later_task(tmp_path):
    numbers = {"horizon": 20, "batch": 10}
    file = written(tmp_path, HONEST + STEP)
    whole = race(planned(file, "stream_split", tmp_path / "whole", numbers=numbers))
    trial = planned(file, "stream_split", tmp_path / "parts", numbers=numbers)

    watcher = Watcher()
    watcher.row = lambda row: row["step"] >= 10 and os.kill(os.getpid(), signal.SIGTERM)
    assert race(trial, watcher).outcome == "interrupted"
    again = race(trial)
    assert [r["weights"] for r in log_of(again)] == [r["weights"] for r in log_of(whole)]


def test_a_stream_of_files_is_refused(tmp_path):
    trial = planned("sgd", "stream_split", tmp_path)
    train = tmp_path / "train"
    train.mkdir()
    data.write(train, {"images": torch.zeros(3, 2), "folder": ROOT})
    with pytest.raises(UserError, match=r"stream_split gives files \(folder\)"):
        Arrivals(trial, train, tmp_path / "parts").begin()


@pytest.mark.slow
def test_trained_scalars_are_measured_where_merged_weights_hide_them(tmp_path):
    numbers = {"horizon": 6, "batch": 8, "evaluate": {"points": 3, "batch": 100}}
    cheat = race(planned(written(tmp_path, HEAD + HIDING), "ft_vit", tmp_path, numbers=numbers))
    shares = [row["metrics"]["trainable"] for row in log_of(cheat)]
    # The second evaluation after the start knows of two checkpoints; a goal is held at two.
    assert shares[:2] == [0.0] * 2
    assert min(shares[2:]) > 0.9
    honest = race(planned("lora", "ft_vit", tmp_path, numbers=numbers))
    shares = [row["metrics"]["trainable"] for row in log_of(honest)]
    assert len({*shares}) == 1
    assert 0.0 < shares[0] < 0.12


def test_workers_of_a_data_loader_work(tmp_path):
    """They talk through Unix sockets in the private folder; if these are refused, they hang."""
    numbers = {"horizon": 4, "evaluate": {"points": 2, "batch": 1}}
    file = written(tmp_path, HONEST + STEP + LOADING)
    outcome = race(planned(file, "matrix_sensing", tmp_path, numbers=numbers))
    assert outcome.outcome == "out_of_budget", outcome.record["reason"]
    assert "LOADED [[0, 1, 2, 3], [4, 5, 6, 7]]" in said(outcome)


@pytest.mark.slow
@pytest.mark.skipif(not sandbox.offered(), reason="this kernel has no Landlock")
def test_workers_of_a_data_loader_are_refused_at_once_in_strict(tmp_path):
    file = written(tmp_path, HONEST + STEP + LOADING)
    numbers = {"horizon": 4, "evaluate": {"points": 2, "batch": 1}}
    outcome = race(planned(file, "matrix_sensing", tmp_path, "strict", numbers=numbers))
    assert outcome.outcome == "failed"
    assert "isolation=strict refuses" in outcome.record["reason"]


def test_a_restricted_process_knows_the_submissions_it_was_given(monkeypatch):
    plugin = discover.find("muon")
    known = json.loads(json.dumps(discover.described(plugin)))
    before = discover.submissions()
    monkeypatch.setattr(discover, "_restricted", [])
    try:
        discover.restrict(known)
        assert discover.submissions()["muon"] == plugin
        assert set(discover.submissions()) < set(before)
        assert discover.sources(discover.find("muon")) == discover.sources(plugin)
    finally:
        monkeypatch.undo()
        discover.submissions.cache_clear()
