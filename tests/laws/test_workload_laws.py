"""Shipped workloads keep the laws of workloads; each law finds the mistake it is for."""

import pytest
import torch

from harness.catalog import discover
from harness.catalog.definition import define, scales_of, tree_of
from harness.cli.commands import new
from harness.errors import UserError
from harness.laws import workload_laws
from harness.laws.verdicts import BROKEN, KEPT, NOT_APPLICABLE, try_law
from harness.laws.workload_run import WorkloadRun

CODE, NUMBERS = (path.read_text() for path in new.TEMPLATES["workload"].values())
# Workloads whose examples are quickly made; the others are tried by the slow test.
QUICK = ["matrix_completion", "pinn_poisson"]


def run_of(name):
    torch.set_num_threads(1)
    tree = tree_of(name)
    return WorkloadRun(define(name, tree, scales_of(tree)[0], None))


def written(folder, code=CODE, numbers=NUMBERS, name="mine"):
    (folder / f"{name}.py").write_text(code)
    (folder / f"{name}.yaml").write_text(numbers)
    return str(folder / f"{name}.py")


def verdicts(name):
    run, exempt = run_of(name), workload_laws.skips(discover.find_workload(name).path)
    return {law: try_law(f, run, exempt.get(law)) for law, f in workload_laws.LAWS.items()}


def broken(name):
    return {law: v.text for law, v in verdicts(name).items() if v.outcome == BROKEN}


@pytest.mark.parametrize("name", QUICK)
def test_shipped_workload_keeps_the_laws(name, monkeypatch):
    monkeypatch.setattr(workload_laws, "SECONDS", 0.5)
    assert broken(name) == {}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(set(discover.workloads()) - set(QUICK)))
def test_every_shipped_workload_with_a_mini_scale_keeps_the_laws(name):
    if "mini" not in tree_of(name):
        pytest.skip("no mini scale")
    assert broken(name) == {}


def test_the_template_keeps_every_law(tmp_path):
    seen = verdicts(written(tmp_path))
    assert {law: v.outcome for law, v in seen.items()} == dict.fromkeys(workload_laws.LAWS, KEPT)
    assert "reaches the goal by step" in seen["reachable"].text


MISTAKES = [  # law, file or numbers, what is replaced by what, what is said
    ("numbers", "numbers", "width: 128}}", "width: 128}, batch: 0}", "batch=0"),
    ("functions", "code", "def size(data, config)", "def size(data)", "not size(data, config)"),
    ("functions", "code", "def metric(", "def metrics(", "lacks metric"),
    ("deterministic", "code", ", generator=generator)\n    angle", ")\n    angle", "differs"),
    ("deterministic", "code", "torch.nn.Linear(width, 2),",
     "torch.nn.Linear(width, 2, device='cpu').apply(lambda m: torch.seed() and "
     "m.reset_parameters()),", "differs between two models"),
    ("disjoint", "code", "manual_seed(0 if training else 1)\n    count = config.data.train if "
     "training else config.data.validation", "manual_seed(0)\n    count = config.data.train",
     "4000 validation examples are training examples"),
    ("starts", "code", '"accuracy": sums', '"precision": sums', "score() has precision"),
    ("starts", "numbers", "at_least: 0.98", "at_least: 0.01", "at its start meets the goal"),
    ("starts", "code", "return F.cross_entropy(", "return 0 / 0.0 * torch.log(-torch.ones(())) + "
     "F.cross_entropy(", "ZeroDivisionError"),
    ("starts", "code", "return F.cross_entropy(", "return torch.log(-torch.ones(())) + "
     "F.cross_entropy(", "the loss at the start is nan"),
    ("neutral", "code", "    right = model", "    next(model.parameters()).data.add_(1)\n"
     "    right = model", "metric() changes"),
    ("neutral", "code", '"right": right.sum()', '"right": right.sum() + 1', "batches of half"),
    ("parts", "code", "return torch.nn.Sequential(",
     "return torch.nn.Module() if width else torch.nn.Sequential(", "no parameter is trained"),
    ("reachable", "code", "return F.cross_entropy(", "return 0 * F.cross_entropy(",
     "the training loss goes from"),
]  # fmt: skip


@pytest.mark.parametrize("law, where, old, new, said", MISTAKES)
def test_a_law_finds_its_mistake(law, where, old, new, said, tmp_path, monkeypatch):
    monkeypatch.setattr(workload_laws, "SECONDS", 0.5)
    texts = {"code": CODE, "numbers": NUMBERS}
    assert old in texts[where]
    texts[where] = texts[where].replace(old, new)
    name = written(tmp_path, **texts)
    verdict = try_law(workload_laws.LAWS[law], run_of(name))
    assert verdict.outcome == BROKEN
    assert said in verdict.text


def test_splits_without_anything_in_common_are_not_compared(tmp_path):
    code = CODE.replace('return {"inputs": data["points"][index], "targets": data["ring"][index]}',
                        'return {"x" + str(len(data["ring"])): data["points"][index]}')  # fmt: skip
    verdict = try_law(workload_laws.disjoint, run_of(written(tmp_path, code)))
    assert verdict.outcome == NOT_APPLICABLE


def test_an_exemption_names_a_law_and_gives_a_reason(tmp_path):
    path = discover.find_workload(written(tmp_path, CODE + 'SKIPS = {"disjont": "no"}\n')).path
    with pytest.raises(UserError, match="did you mean disjoint"):
        workload_laws.skips(path)
