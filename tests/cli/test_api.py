"""The Python API: the example of docs/api.md runs, and what it returns is what was recorded."""

import json
import re
import subprocess
import sys

import pytest

import harness
from harness.errors import UserError
from tests.support.racing import ROOT, SHORT, environment

EXAMPLE = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.S)[1]
QUICK = [*(word for word in SHORT if word.startswith("workload")), "isolation=inline"]


def test_importing_is_instant_and_names_are_there():
    code = "import sys, harness; print(*sys.modules); print(*dir(harness))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    modules, names = done.stdout.splitlines()
    loaded = {name for name in modules.split() if name.partition(".")[0] == "harness"}
    assert loaded == {"harness"}
    assert not {"torch", "pandas", "hydra"} & set(modules.split())
    assert set(harness.__all__) <= set(names.split())
    with pytest.raises(AttributeError, match="no attribute 'rase'"):
        harness.rase  # noqa: B018


def test_the_example_of_the_page_runs(tmp_path, monkeypatch, capsys):
    import matplotlib
    import torch

    matplotlib.use("Agg")
    assert len(EXAMPLE.splitlines()) <= 11
    monkeypatch.chdir(tmp_path)
    short = f"overrides={QUICK!r}, "
    names = {"model": torch.nn.Linear(2, 2)}
    exec(EXAMPLE.replace('tracker="none"', short + 'tracker="none"'), names)
    out = capsys.readouterr().out
    assert out.startswith("out of budget: best loss")
    assert "muon" in out
    run, runs, curves = names["run"], names["runs"], names["curves"]
    assert (run.outcome, run.time, run.record["seed"]) == ("out_of_budget", None, 1)
    assert runs.run_id.tolist() == [run.folder.name]
    assert runs["hp.lr"].item() == run.hp["lr"]
    assert runs.best.item() == run.best["loss"]
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    losses = [row["metrics"]["loss"] for row in log if row["event"] == "evaluation"]
    assert curves.loss.tolist() == pytest.approx(losses, rel=1e-6)
    assert isinstance(names["optimizer"], torch.optim.Optimizer)


def test_a_race_takes_settings_of_every_type_and_is_not_run_twice(tmp_path, capsys):
    folder = tmp_path / "it's [mine], a=b"
    asked = {
        "hp": {"lr": 1e-3, "momentum": 0.5},
        "overrides": QUICK,
        "results": folder,
        "tracker": "none",
        "variant": None,
        "tuned": False,
        "quiet": True,
    }
    first = harness.race("gpt2", "torch.optim.SGD", **asked)
    assert (first.hp["lr"], first.hp["momentum"]) == (1e-3, 0.5)
    assert first.folder.is_relative_to(folder)
    again = harness.race("gpt2", "torch.optim.SGD", **asked)
    assert again.record["earlier"]
    assert again.record["chain"] == first.record["chain"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"submission": "loin"}, "did you mean lion"),
        ({"submission": "lion", "sede": 1}, "did you mean seed"),
        ({"submission": "lion", "seed": "many"}, "could not be converted to Integer"),
        ({"submission": "lion", "hp": {"lr": 7}}, "outside its range"),
        ({"submission": "lion", "trial": 1, "tuned": True}, "contradict"),
    ],
)
def test_what_is_wrong_is_a_user_error(asked, said):
    with pytest.raises(UserError, match=said):
        harness.race("gpt2", **asked)
