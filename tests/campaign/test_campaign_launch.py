"""Laws of campaigns through Hydra's launchers: the same trials in the same order, in rounds."""

import pytest

from harness.campaign import running, trial
from harness.campaign.pair_results import Job
from harness.campaign.pairs import Pair
from harness.cli import campaign_launch
from harness.errors import EXIT_INTERRUPTED, EXIT_OK, UserError
from tests.cli.test_cli import typed

RULES = {"studies": 1, "trials": 3, "seeds": 2}
PLAN = "{submissions: [finetune], workloads: [stream_scole], studies: 1, trials: 1, seeds: 1}"


class Nothing:
    """No record covers any job."""

    def __call__(self, pair, job):
        return None

    def failed(self, pair):
        return None

    def add(self, run):
        """Forget it."""


def test_a_round_is_of_jobs_that_are_ready_and_the_next_waits_for_it(monkeypatch):
    monkeypatch.setattr(running, "ROUND", 2)
    pair, rounds = Pair("gpt2", "adamw", RULES), []

    def start(settings):
        rounds.append([(each["trial"], each["seed"]) for each in settings])
        return [trial.failure(each, "no reason", "crashed") for each in settings]

    # without a record no point is the best, so the seeds never become ready
    done = running.run_in_rounds([pair], "r", 1, Nothing(), lambda *_: None, start)
    assert rounds == [[(0, 0), (1, 0)], [(2, 0)]]
    assert not done
    assert pair.done[Job(0, 2, 0)]["outcome"] == "crashed"


def test_no_round_starts_after_the_minutes():
    pair = Pair("gpt2", "adamw", RULES)
    never = pytest.fail
    assert not running.run_in_rounds([pair], "r", 1, Nothing(), never, never, minutes=0)
    assert pair.left == 5


def test_a_launcher_gets_each_trials_settings_and_returns_how_it_ended(tmp_path, monkeypatch):
    raced = []

    def race(settings):
        raced.append(settings["seed"])
        return trial.failure(settings, f"seed {settings['seed']}", "failed")

    monkeypatch.setattr(trial, "race", race)
    start = campaign_launch.starter("basic", [], 1, tmp_path)
    pair = Pair("gpt2", "adamw", {"studies": 1, "trials": 0, "seeds": 3})
    ended = start([pair.config(job, str(tmp_path)) for job in pair.ready()])
    assert [each["reason"] for each in ended] == ["seed 1", "seed 2", "seed 3"]
    assert raced == [1, 2, 3]
    assert list(tmp_path.iterdir()) == []  # the folder of the settings is gone


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--set", "hydra.launcher.partition=cpu"], "without a launcher.*--launcher NAME"),
        (["--launcher", "basic", "--jobs", "2"], "one trial at a time"),
        (["--launcher", "basic", "--set", "seed=3"], "settings of the launcher"),
        (["--launcher", "slurm"], "invalid choice.*submitit_slurm"),
    ],
)
def test_a_wrong_launcher_is_an_error_before_anything_is_raced(arguments, said, tmp_path):
    import re

    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    code, _, err = typed("campaign", str(plan), "--results", str(tmp_path / "r"), *arguments)
    assert code == 2
    assert re.search(said, err, re.S), err
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "ray"])
def test_a_campaign_runs_through_a_launcher_and_goes_on_where_it_stopped(launcher, tmp_path):
    if launcher == "ray":
        pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    if launcher.startswith("submitit"):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    plan, results = tmp_path / "plan.yaml", tmp_path / "r"
    plan.write_text(PLAN)
    command = ["campaign", str(plan), "--results", str(results), "--jobs", "1"]
    code, out, err = typed(*command, "--launcher", launcher, "--minutes", "0.001")
    assert code == EXIT_INTERRUPTED, (out, err)  # the first round alone
    code, out, err = typed(*command, "--launcher", launcher)
    assert code == EXIT_OK, (out, err)
    assert "2 trials done, 0 without a result" in out
    lines = (results / "board" / "stream_scole.mini.jsonl").read_text().splitlines()
    assert sum('"run_id"' in line for line in lines) == 2


def test_settings_that_are_not_the_launchers_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--set seed=3; settings of the launcher"):
        campaign_launch.starter("joblib", ["seed=3"], 2, tmp_path)
