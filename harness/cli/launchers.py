"""Hydra's launchers: where each comes from, and its setting for trials at a time.

`jobs` is a setting of ours. Each launcher has its own name for it, and two have none.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.errors import UserError, nearest
from harness.race import configuration

GROUP = "hydra/launcher"
DEFAULT = "joblib"


@dataclass(frozen=True)
class Launcher:
    """One launcher.

    Attributes:
        package: the module that Hydra finds it in.
        extra: what to install for it, as in training-race[slurm].
        key: its setting for the number of trials at a time; without one, trials start in groups.
    """

    package: str
    extra: str | None = None
    key: str | None = None


LAUNCHERS = {
    "basic": Launcher("hydra"),
    "joblib": Launcher("hydra_plugins.hydra_joblib_launcher", key="hydra.launcher.n_jobs"),
    "submitit_local": Launcher("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "submitit_slurm": Launcher(
        "hydra_plugins.hydra_submitit_launcher", "slurm", "hydra.launcher.array_parallelism"
    ),
    "ray": Launcher("hydra_plugins.hydra_ray_launcher", "ray", "hydra.launcher.ray.init.num_cpus"),
}
# A cluster that runs already has its own number of CPUs, and refuses another.
ADDRESS = "hydra.launcher.ray.init.address"
QUIET_RAY = ("log_to_driver=false", "include_dashboard=false", "logging_level=warning")


def refuse_without_sweep(words: Sequence[str]) -> None:
    """Raise UserError if a launcher is chosen and no sweep is asked for: nothing would use it."""
    for word in words:
        if word.startswith(f"{GROUP}="):
            raise UserError(f"{word} starts the trials of a sweep", do="add -m")


def chosen(overrides: Sequence[Any]) -> str:
    """Return the launcher that parsed overrides choose.

    Raises:
        UserError: it does not exist or is not installed.
    """
    names = [str(o.value()) for o in overrides if o.key_or_group == GROUP]
    if not names:
        return DEFAULT
    name = names[-1]
    if name not in LAUNCHERS:
        raise UserError(f"{GROUP}={name} does not exist", nearest(name, LAUNCHERS))
    launcher = LAUNCHERS[name]
    if not _installed(launcher.package):
        raise UserError(
            f"{GROUP}={name} is not installed", do=f"pip install 'training-race[{launcher.extra}]'"
        )
    return name


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def settings(name: str, overrides: Sequence[Any]) -> list[str]:
    """Return what is typed to Hydra, so that this launcher runs `jobs` trials at a time.

    Raises:
        UserError: `jobs` was typed, and the launcher runs one trial at a time.
    """
    given = {override.key_or_group: override for override in overrides}
    typed = given["jobs"].value() if "jobs" in given else None
    if name == "basic" and typed not in (None, 1):
        raise UserError(
            f"jobs={typed}: {GROUP}=basic runs one trial at a time", "jobs=1", f"{GROUP}={DEFAULT}"
        )
    words = []
    key = LAUNCHERS[name].key
    if key and key not in given and not (name == "ray" and _has_address(given)):
        # Ray's settings are a free dictionary, to which a key must be added.
        words.append(f"{'++' if name == 'ray' else ''}{key}=${{jobs}}")
    if name == "ray":
        quiet = [f"hydra.launcher.ray.init.{word}" for word in QUIET_RAY]
        words += [f"++{word}" for word in quiet if word.partition("=")[0] not in given]
    return words


def _has_address(given: dict) -> bool:
    return ADDRESS in given and given[ADDRESS].value() is not None


def group_size(name: str, overrides: Sequence[Any], jobs: int) -> int | None:
    """Return how many trials are handed to the launcher at once; None for all of them.

    A launcher that has no limit of its own gets `jobs` trials, and the next ones when these have
    ended.
    """
    given = {override.key_or_group: override for override in overrides}
    limited = LAUNCHERS[name].key and not (name == "ray" and _has_address(given))
    return None if limited or name == "basic" else jobs


def launched(
    jobs: Sequence[list[str]],
    words: Sequence[str],
    task: Callable,
    group: int | None,
    stop: Path,
) -> Iterator[Any]:
    """Run a task through the launcher that `words` choose; yield what each job returns, in order.

    Args:
        jobs: the settings of each job. words: those of all jobs.
        task: a function of the composed configuration, importable by name.
        group: jobs handed over at once; None for all.
        stop: no further group is handed over once this file exists.
    """
    from hydra import initialize_config_dir
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode

    words = [*words, "hydra.mode=MULTIRUN"]
    with initialize_config_dir(str(configuration.CONF), job_name="harness", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", words, RunMode.MULTIRUN)
        HydraConfig.instance().set_config(master)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=loader, callbacks=Callbacks(master)),
            task_function=task,
            config=master,
        )
        size = group or len(jobs)
        for first in range(0, len(jobs), size):
            if stop.exists():
                return
            part = list(jobs[first : first + size])
            for returned in launcher.launch(part, initial_job_idx=first):
                yield returned.return_value
