"""A campaign's trials through one of Hydra's launchers: on a cluster, or on this machine.

The jobs that are ready go to the launcher in rounds, and a round is waited for. Which job is ready
follows from results, so the campaign itself stays where it was started. The trials' settings lie in
a folder beside the records, which every machine sees.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from harness.campaign import trial
from harness.cli import config, launchers, sweep, sweep_plan, sweep_trial
from harness.errors import UserError
from harness.system.files import atomic_json, read_json

Start = Callable[[list[dict]], list[dict]]
GROUPS = ("hydra.launcher.", "hydra/launcher=", "hydra.sweep.")


def starter(name: str, words: Sequence[str], jobs: int, results: Path) -> Start:
    """Return a function that races trials, given by their settings, through a launcher.

    Args:
        name: the launcher.
        words: settings of the launcher, as Hydra reads them.
        jobs: trials at a time.

    Raises:
        UserError: the launcher does not exist or is not installed, or a setting is not its own.
    """
    for word in words:
        if not word.lstrip("+~").startswith(GROUPS):
            raise UserError(f"--set {word}", "settings of the launcher: hydra.launcher.KEY=VALUE")
    overrides = sweep_plan.parsed([f"{launchers.GROUP}={name}", *words, f"jobs={jobs}"])
    launchers.chosen(overrides)
    config.register([])
    fixed = [o.input_line for o in overrides] + launchers.settings(name, overrides)
    group = launchers.group_size(name, overrides, jobs)

    def start(settings: list[dict]) -> list[dict]:
        folder = sweep.new_folder(results)
        try:
            atomic_json(folder / "jobs.json", settings)
            todo = [[f"+job={i}"] for i in range(len(settings))]
            words = [*fixed, f'hydra.sweep.dir="{folder}"']
            return list(launchers.launched(todo, words, job, group, folder / sweep_trial.STOP))
        except KeyboardInterrupt:
            sweep_trial.stop(folder)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                folder.parent.rmdir()

    return start


def job(cfg) -> dict:
    """Race one trial of a campaign, wherever a launcher starts it; return how it ended."""
    from hydra.core.hydra_config import HydraConfig

    folder = Path(HydraConfig.get().sweep.dir)
    settings = read_json(folder / "jobs.json")[cfg["job"]]
    if (folder / sweep_trial.STOP).exists():
        return trial.failure(settings, "the campaign was stopped", "interrupted")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return trial.race(settings)
