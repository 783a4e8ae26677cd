"""Every launcher of sweeps works as it is typed, and runs `jobs` trials at a time."""

import importlib.util
import subprocess
import sys

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from harness.cli import config, launchers
from harness.errors import UserError
from harness.race.configuration import CONF
from harness.records import run_folder
from tests.support import slurm
from tests.support.racing import HORIZON, ROOT, SHORT, environment, log_of

INSTALLED = [
    name
    for name, launcher in launchers.LAUNCHERS.items()
    if importlib.util.find_spec(launcher.package.partition(".")[0])
    and importlib.util.find_spec(launcher.package)
]
SEEDS = 3


def overrides(*words):
    return OverridesParser.create().parse_overrides(list(words))


def composed(name, *words):
    """Return the configuration that Hydra makes of a sweep's command line."""
    words = config.register([f"hydra/launcher={name}", *words])
    words += launchers.settings(name, overrides(*words))
    with initialize_config_dir(str(CONF), job_name="harness", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return loader.load_configuration("config", words, RunMode.MULTIRUN)


@pytest.mark.parametrize("name", INSTALLED)
def test_jobs_reach_the_launcher(name):
    settings = composed(name, *(["jobs=5"] if name != "basic" else []))
    key = launchers.LAUNCHERS[name].key
    size = launchers.group_size(name, overrides("jobs=5"), 5)
    if key is None:
        assert size == (None if name == "basic" else 5)
        return
    value = settings
    for part in key.split("."):
        value = value[part]
    assert (value, size) == (5, None)


def test_a_launchers_own_setting_is_left_as_it_was_typed():
    words = ["jobs=2", "hydra.launcher.n_jobs=7"]
    assert launchers.settings("joblib", overrides(*words)) == []
    assert composed("joblib", *words).hydra.launcher.n_jobs == 7


def test_a_ray_cluster_that_runs_already_is_given_groups():
    words = overrides("++hydra.launcher.ray.init.address=auto", "jobs=4")
    assert not any("num_cpus" in word for word in launchers.settings("ray", words))
    assert launchers.group_size("ray", words, 4) == 4


@pytest.mark.parametrize(
    "words, message",
    [
        (["hydra/launcher=slurm"], "did you mean submitit_slurm"),
        (["hydra/launcher=basic", "jobs=2"], "runs one trial at a time; jobs=1"),
    ],
)
def test_a_wrong_launcher_is_refused(words, message):
    with pytest.raises(UserError, match=message):
        launchers.settings(launchers.chosen(overrides(*words)), overrides(*words))


def test_a_launcher_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr(launchers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'training-race\[slurm\]'"):
        launchers.chosen(overrides("hydra/launcher=submitit_slurm"))
    with pytest.raises(UserError, match=r"pip install 'training-race\[ray\]'"):
        launchers.chosen(overrides("hydra/launcher=ray"))


def test_a_launcher_without_a_sweep_is_refused():
    with pytest.raises(UserError, match="add -m"):
        launchers.refuse_without_sweep(["workload=gpt2", "hydra/launcher=ray"])


def sweep(name, results, **changes):
    """Run a short sweep under a launcher, as a user types it, and check its records."""
    words = ["submission=lion", f"seed=range(0,{SEEDS})", "jobs=2", f"results={results}"]
    command = [sys.executable, "-m", "harness", "-m", f"hydra/launcher={name}", *words, *SHORT]
    command = [word for word in command if (name, word) != ("basic", "jobs=2")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment(**changes), timeout=280
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[2] for row in rows if row[:2] == ["gpt2", "lion"]] == ["0", "1", "2"]
    assert f"[{SEEDS}/{SEEDS}] gpt2/lion seed" in done.stderr
    folders = list((results / "runs" / "gpt2" / "lion").iterdir())
    assert len(folders) == SEEDS
    for folder in folders:
        assert [row["event"] for row in log_of(folder)].count("started") == 1
        assert run_folder.finished(folder)["step"] == HORIZON
    assert not (results / "sweeps").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in INSTALLED if name != "submitit_slurm"])
def test_a_sweep_runs_each_trial_once(name, tmp_path):
    sweep(name, tmp_path / "results")


@pytest.mark.slow
@pytest.mark.skipif("submitit_slurm" not in INSTALLED, reason="training-race[slurm] is missing")
@pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing() or "-")
def test_a_sweep_runs_on_slurm(tmp_path):
    with slurm.running(tmp_path / "slurm") as clients:
        sweep("submitit_slurm", tmp_path / "results", **clients)
