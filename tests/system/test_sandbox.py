"""Laws of isolation: what a policy hides, what is said where it cannot be kept, no false alarms."""

import json
import math
import sys
from pathlib import Path

import pytest

from harness.catalog import discover, reading
from harness.catalog.definition import tree_of
from harness.errors import UserError
from harness.laws.small_run import SmallRun
from harness.laws.small_workloads import small_workloads
from harness.system import landlock, paths, policy, sandbox
from harness.system.paths import ROOT
from tests.support import tiny
from tests.support.racing import harness, planned, race

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Landlock is of Linux")
strict = pytest.mark.skipif(not sandbox.offered(), reason="this kernel has no Landlock")

# Where every shipped submission runs some steps: its family's workload, else its track's.
FAMILY = {"matrix": "matrix_sensing", "samplers": "pinn_poisson"}
TRACK = {"train": "gpt2", "finetune": "ft_vit", "compress": "compress_vit"}
TRACK["continual"] = "stream_split"
OWN = {"alternating_minimisation": "matrix_completion", "elr": "vit", "tpsgd": "vit"}
OWN |= dict.fromkeys(("frank_wolfe", "pairwise_frank_wolfe"), "constrained")
OWN |= dict.fromkeys(("cbo", "cbo_isotropic", "fzoos"), "blackbox")
OWN |= {"convex_admm": "two_layer_relu", "orthogonal_dictionary": "matrix_dictionary"}
STEPS, POINTS = 4, 2
# many passes at once
LONG = dict.fromkeys(("alternating_minimisation", "eggroll", "cbo", "cbo_isotropic"), 40)
LONG |= dict.fromkeys(("masha", "fzoos", "nncg"), 200)
LONG |= dict.fromkeys(("llm_pruner", "squeezellm", "taylor"), 300)
LONG |= dict.fromkeys(("lora_sb", "snip"), 400)
SMALL = {"gpt2": {"batch": 8}, "compress_vit": {"batch": 16}, "ft_vit": {"batch": 16}}


def policy_of(tmp_path, level="strict"):
    data = tmp_path / "data"
    data.mkdir()
    (data / "paths.json").write_text(json.dumps({"tokens": str(tmp_path / "tokens.bin")}))
    mine = discover.readable(discover.find("sgd"))
    return policy.make(
        level,
        writable=[tmp_path],
        data=[data, None],
        sources=mine,
        plugins=reading.package_folders(),
        device="cpu",
        hidden=[],
    )


def within(path: Path, trees: list[str]) -> bool:
    return any(path.resolve().is_relative_to(tree) for tree in trees)


def test_a_policy_opens_the_code_and_the_data_it_was_given_and_hides_goals_and_records(tmp_path):
    readable = policy_of(tmp_path)["readable"]
    given = [tmp_path / "data", tmp_path / "tokens.bin", Path(sys.prefix)]
    given += [ROOT / "harness" / "train", ROOT / "harness" / "ops.py"]
    assert all(within(path, readable) for path in given)
    cache = paths.cache_folder()
    hidden = [ROOT / "conf", ROOT / "results", ROOT / "tests", cache, Path.home()]
    hidden += [ROOT / "harness" / "race", ROOT / "harness" / "clock"]
    hidden += [ROOT / "submissions" / "first_order", ROOT / "workloads" / "gpt2.py"]
    assert [path for path in hidden if within(path, readable)] == []


def test_a_folder_beside_a_hidden_one_stays_readable(tmp_path):
    for name in ("code/inner", "code/results/run", "other"):
        (tmp_path / name).mkdir(parents=True)
    parts = [*policy._without(tmp_path, [tmp_path / "code" / "results"])]
    assert parts == [tmp_path / "code" / "inner", tmp_path / "other"]
    assert [*policy._without(tmp_path, [tmp_path])] == []


def test_strict_without_landlock_says_what_is_missing_and_what_to_type(monkeypatch):
    monkeypatch.setattr(landlock, "version", lambda: 0)
    with pytest.raises(UserError) as refused:
        sandbox.require("strict")
    assert "needs Landlock" in refused.value.what
    assert refused.value.do == "isolation=process"
    sandbox.require("process")
    assert sandbox.available()["landlock files"] is None


def test_doctor_shows_every_layer_of_strict():
    told = harness("doctor").stdout
    for layer, found in sandbox.available().items():
        assert f"strict: {layer}" in told
        assert (found or "not on this machine") in told
    assert ("strict, process, inline" in told) == sandbox.offered()


@strict
def test_strict_trains_to_the_same_bits_and_says_its_layers(tmp_path):
    done = {
        level: tiny.race(tiny.trial("adamw", tmp_path, isolation=level))
        for level in ("process", "strict")
    }
    plain, confined = (outcome.record for outcome in done.values())
    assert plain["weights"] == confined["weights"]
    assert plain["run_id"] != confined["run_id"]
    layers = {level: told(outcome.folder) for level, outcome in done.items()}
    assert layers["process"] == ["limits", "tripwire"]
    assert {"landlock files", "limits", "tripwire"} <= set(layers["strict"])


def told(folder: Path) -> list[str]:
    """The layers that a record says were active."""
    first = json.loads((folder / "log.jsonl").read_text().splitlines()[0])
    return first["isolation_layers"]


def place(name: str) -> str:
    card = discover.read(discover.find(name))
    if name in OWN:
        return OWN[name]
    usual = FAMILY.get(card.plugin.family) or TRACK[discover.tracks(card)[0]]
    found = SmallRun(card).workload
    tried = [small.name for small in small_workloads() if small.track == found.track]
    # The first on which it trains. If others stand before it, the usual one lacks something.
    return usual if found.name == tried[0] else found.name


@strict
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(discover.submissions()))
def test_no_shipped_submission_is_refused_anything_in_strict(name, tmp_path, monkeypatch):
    unpriced = lambda workload, engine, kinds: {k: [1.0, 1.0, 1.0] for k in kinds}  # noqa: E731
    monkeypatch.setattr("harness.clock.tables.ratios", unpriced)  # a price table is not the point
    at = place(name)
    mini = tree_of(at)["mini"]
    # Every kind has the price of a step here, so a step of eight parts takes eight.
    passes = discover.read(discover.find(name)).literals.get("PASSES", {})
    horizon = max(LONG.get(name, STEPS), math.ceil(sum(passes.values())))
    numbers = {"horizon": horizon} | SMALL.get(at, {})
    if "stream" in mini:  # two steps of each of five tasks, or all of another stream
        numbers["horizon"] = 10 if at == "stream_split" else mini["horizon"]
    numbers["evaluate"] = mini["evaluate"] | {"points": POINTS}
    trial = planned(at, name, tmp_path, numbers=numbers, isolation="strict")
    outcome = race(trial)
    said = (outcome.folder / "runner.log").read_text()
    assert outcome.outcome in ("out_of_budget", "reached", "diverged"), (
        f"{outcome.record.get('reason')}\n{said}"
    )
    assert "isolation:" not in said
